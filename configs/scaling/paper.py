"""Wukong at the sizes of the paper's Table 5, on made-up tables of the paper's size: to compile ahead, not to train.

Command:   python -c 'import json; print(json.dumps({"name": "internal", "source": {"format": "csv"}, "labels": [{
           "name": "click"}], "categorical": [{"name": f"feature_{i}", "encoding": "identity", "rows": 5_850_000}
           for i in range(720)]}))' > runs/internal.json
           python scripts/compile_for_cluster.py --config=scaling/paper:108 --target=gpu:h100:32x8
           --schema=runs/internal.json
           python scripts/compile_for_cluster.py --config=scaling/paper:108 --target=tpu:v5p:4x8x8
           --schema=runs/internal.json
           The number is the printed GFLOP of a row of Table 5: 0.53, 1.25, 2.12, 5.6, 22.23, 61 or 108.
Data:      none. The paper's data are internal: 720 features, embeddings of width 160, tables of 627.65 * 2**30 numbers
           (here 720 tables of 5.85 million rows), batches of 262,144 rows. Its tables are FP16, ours bfloat16
Expected:  docs/results/compile_dense. By our reading of the sizes, 108 GFLOP are 125.5, and 16.35 * 2**30 dense weights
           are 19.18 * 2**30 (docs/results/scaling_presets): what fits here, fits at the paper's size
"""

from ml_collections import ConfigDict

from wukong_jax.config import start_config
from wukong_jax.errors import UserError
from wukong_jax.scaling.ladders.presets import INTERNAL_WIDTH, TABLE_5

BATCH_SIZE = 262_144


def get_config(gflop: str = "108") -> ConfigDict:
    """Returns the config of the size with the given printed GFLOP."""
    sizes = {f"{preset.gflop:g}": preset for preset in TABLE_5 if preset.model == "Wukong"}
    if gflop not in sizes:
        raise UserError(f"size {gflop!r}: the paper's Wukong has {', '.join(sizes)} GFLOP; give one of them")
    config = start_config()
    config.name = f"Wukong at the paper's {gflop} GFLOP"
    config.data.factory = "blocks"
    config.embeddings.width = INTERNAL_WIDTH
    config.embeddings.initial_scale = 0.02
    config.embeddings.dtype = "bfloat16"
    config.embeddings.optimizer.kind = "rowwise_adagrad"
    config.embeddings.optimizer.learning_rate = 0.04
    config.model.options = dict(sizes[gflop].options)
    config.optimizer.factory = "adam"
    config.optimizer.learning_rate = 0.04
    config.training.batch_size = BATCH_SIZE
    config.training.evaluation_batch_size = BATCH_SIZE
    config.training.epochs = 1
    config.training.compute_dtype = "bfloat16"
    config.training.remat = True
    config.mesh.fsdp = "all"
    config.mesh.reduce_dtype = "bfloat16"
    config.exchange.options = {"placement": "auto", "dtype": "bfloat16"}  # so that flags can change them
    return config

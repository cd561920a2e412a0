"""DLRM on Criteo for a real cluster, with or without four towers, to compile ahead of time and to train.

Command:   python scripts/compile_for_cluster.py --config=dmt/criteo:2 --target=h100_4x8 --schema=criteo
           --table_rows=8000000
           python scripts/compile_for_cluster.py --config=dmt/criteo:2 --target=v5p_4x4x4_4slices
           --schema=criteo --table_rows=8000000 --config.training.batch_size=262144
           --config.training.evaluation_batch_size=262144
           on the cluster, with row blocks written by scripts/prepare_data.py:
           python scripts/train.py --config=dmt/criteo:2 --workdir=runs/criteo_dmt --config.data.path=FOLDER
           --config.mesh.hosts=4
           `flat` is DLRM without towers and with the flat exchange, `pass_through` has the towers' exchange without
           tower modules, and a number is the compression of tower modules. The batch is 1,024 rows per device on 32
           devices.
Expected:  docs/results/compile_ahead; no model was trained with this config
"""

from ml_collections import ConfigDict

from wukong_jax.config import start_config

from . import planted

TOWERS = 4
ROWS_PER_DEVICE, DEVICES = 1024, 32


def get_config(variant: str = "flat") -> ConfigDict:
    """Returns the config of a variant: "flat", "pass_through", or a compression."""
    config = start_config()
    config.name = f"DLRM on Criteo, {variant}"
    config.data.factory = "blocks"
    config.embeddings.width = 128
    config.embeddings.initial_scale = 0.02
    config.embeddings.optimizer.kind = "rowwise_adagrad"
    config.embeddings.optimizer.learning_rate = 0.02
    config.optimizer.factory = "adam"
    config.optimizer.learning_rate = 1e-3
    config.training.batch_size = ROWS_PER_DEVICE * DEVICES
    config.training.evaluation_batch_size = ROWS_PER_DEVICE * DEVICES
    config.training.epochs = 1
    config.training.log_every_steps = 100
    config.training.checkpoint_every_steps = 5000
    dlrm = {"bottom_hidden": (512, 256), "top_hidden": (1024, 1024, 512, 256)}
    planted.set_model(config, variant, dlrm, TOWERS)
    config.exchange.options = {"placement": "auto", "dtype": "float32"}  # so that flags can change them
    return config

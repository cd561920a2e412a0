"""A scaling curve (loss against FLOPs) over your own rows, for Wukong and two baselines.

Command:   python scripts/infer_schema.py clicks.csv --label=click --output=clicks.json
           python scripts/scaling_curve.py --config=scaling/own --workdir=runs/sweep --config.run.data.path=clicks.csv
           --config.run.data.schema=clicks.json
           The rows are prepared once, for all units. With rows that are prepared already:
           --config.run.data.factory=blocks --config.run.data.path=FOLDER
           `own:small` has fewer sizes and one seed, for a first look
Expected:  about 70 units, `:small` 15; a unit is one pass over the training rows, and all units see the same
           ones. Too few rows give flat curves, or curves that rise again where models overfit
"""

from ml_collections import ConfigDict

from wukong_jax.errors import UserError
from wukong_jax.scaling.sweep.config import start_sweep_config

MODELS = {"Wukong": ("xs", "s", "m", "l"), "DLRM": ("s", "m", "l"), "DNN": ("s", "m", "l")}
SMALL = {"Wukong": ("xs", "s"), "DLRM": ("s", "m")}


def get_config(sizes: str = "all") -> ConfigDict:
    """Returns the config of the sweep: "all", or "small" for a first look."""
    if sizes not in ("all", "small"):
        raise UserError(f"sizes {sizes!r}: all, small")
    config = start_sweep_config()
    config.name, config.data_name = "own rows, loss against compute", "own rows"
    config.models = dict(SMALL if sizes == "small" else MODELS)
    config.reference, config.baseline = "Wukong", "DLRM"
    config.seeds = (0,) if sizes == "small" else (0, 1, 2)
    config.search.rates = (0.5, 1.0, 2.0) if sizes == "small" else (0.25, 0.5, 1.0, 2.0, 4.0)
    config.search.initial_scales = (0.02,)
    config.options = {"bottom_hidden": (32,)}  # else the bottom MLP would cost more than the small models

    run = config.run
    run.data.factory = "raw"
    run.embeddings.pooling = "mean"  # of bags and sequences
    run.embeddings.optimizer.kind = "rowwise_adagrad"
    run.embeddings.optimizer.learning_rate = 0.02
    run.optimizer.learning_rate = 1e-3
    run.training.batch_size = 1024
    run.training.epochs = 1
    return config

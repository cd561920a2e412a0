"""Wukong on a log of your own, day by day, at a modest size; log and schema come from the command line.

Command:   python scripts/infer_schema.py log/2024-01-01.csv --label=click --output=clicks.json
           python scripts/train_online.py --config=online --workdir=runs/log --config.data.path=log
           --config.data.schema=clicks.json --rows=100000
Data:      raw files in a folder, in the order of their names; the schema must have a timestamp (or give --period=file)
Expected:  docs/results/online has what these settings reach on flights of 2001 and on a generated log that drifts
"""

from ml_collections import ConfigDict

from wukong_jax.config import start_config


def get_config() -> ConfigDict:
    """Returns the config."""
    config = start_config()
    config.name = "Wukong on a log"
    config.data.factory = "raw"

    config.embeddings.width = 16
    config.embeddings.initial_scale = 0.02
    config.embeddings.pooling = "mean"  # of bags and sequences
    config.embeddings.optimizer.kind = "rowwise_adagrad"
    config.embeddings.optimizer.learning_rate = 0.02

    config.model.options = {
        "layers": 1,
        "fmb_tokens": 8,
        "lcb_tokens": 8,
        "rank": 8,
        "fmb_hidden": (64,),
        "head_hidden": (64,),
        "bottom_hidden": (32,),
    }
    config.optimizer.factory = "adam"
    config.optimizer.learning_rate = 1e-3

    config.training.batch_size = 512
    config.training.epochs = 1  # passes of each day
    return config

"""Wukong on your own rows, at a modest size; the path of the rows and their schema come from the command line.

Command:   python scripts/infer_schema.py clicks.csv --label=click --output=clicks.json
           python scripts/train.py --config=own --workdir=runs/clicks --config.data.path=clicks.csv
           --config.data.schema=clicks.json
           `own:small` is for up to about 50,000 rows, `own:large` for more than about five million; infer_schema says
           which. Large files are prepared once: docs/guides/own_data.md
Data:      the schema says which columns are read, and how rows are split
Expected:  docs/results/drafted_schemas has what these settings reach on public sets; minutes per million rows and pass
           on 2 CPU cores. Training stops when the validation log loss has not fallen for some passes
"""

from ml_collections import ConfigDict

from wukong_jax.config import start_config
from wukong_jax.errors import UserError

# Rows of a batch, most passes over the rows, width of embeddings, layers, units of hidden layers, and dropout.
SIZES = {
    "small": (256, 20, 8, 1, 64, 0.2),
    "middle": (512, 10, 16, 1, 64, 0.1),
    "large": (8192, 2, 16, 2, 128, 0.0),
}


def get_config(rows: str = "middle") -> ConfigDict:
    """Returns the config for a number of rows: "small", "middle" or "large"."""
    if rows not in SIZES:
        raise UserError(f"rows {rows!r}: {', '.join(SIZES)}")
    batch_size, epochs, width, layers, hidden, dropout = SIZES[rows]
    config = start_config()
    config.name = "Wukong on own rows"
    config.data.factory = "raw"

    config.embeddings.width = width
    config.embeddings.initial_scale = 0.02
    config.embeddings.pooling = "mean"  # of bags and sequences
    config.embeddings.optimizer.kind = "rowwise_adagrad"
    config.embeddings.optimizer.learning_rate = 0.02

    config.model.options = {
        "layers": layers,
        "fmb_tokens": 8,
        "lcb_tokens": 8,
        "rank": 8,
        "fmb_hidden": (hidden,),
        "head_hidden": (hidden,),
        "bottom_hidden": (32,),
        "fmb_dropout": dropout,
        "head_dropout": dropout,
    }
    config.optimizer.factory = "adam"
    config.optimizer.learning_rate = 1e-3

    config.training.batch_size = batch_size
    config.training.epochs = epochs
    config.training.early_stop_metric = "log_loss"
    config.training.early_stop_patience = 2
    config.training.plateau_factor = 0.3
    return config

"""Logistic regression on the quickstart's data: the reference that Wukong is held against.

Command:   python scripts/train.py --config=configs/quickstart_logistic_regression.py --workdir=runs/mine
"""

import importlib.util
from pathlib import Path

from ml_collections import ConfigDict

from wukong_jax.config import start_config


def get_config() -> ConfigDict:
    """Tables of width 1, summed with a linear term of the dense columns."""
    config = start_config()
    config.name = "logistic regression"
    config.data.format = "planted_clicks"
    config.data.planted = _quickstart().planted_clicks()

    config.embeddings.width = 1
    config.embeddings.initial_scale = 0.0
    config.embeddings.optimizer.kind = "lazy_adam"
    config.embeddings.optimizer.learning_rate = 5e-3

    config.model.factory = "wukong_jax.models.logistic_regression:build"
    config.optimizer.learning_rate = 5e-3

    config.training.batch_size = 4096
    config.training.epochs = 1
    config.training.evaluate_every_steps = 100
    config.training.checkpoint_every_steps = 200
    return config

"""The data half of the configs of several domains and objectives: rows, embeddings, training; no model.

No run by itself: `configs/hotel_bookings.py` and its like load it and choose the model.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from wukong_jax.config import start_config


def start_hotel_bookings() -> ConfigDict:
    """Hotel bookings: 2 hotels x canceled, special_request, parking."""
    config = _start_raw("hotel bookings", "hotel_bookings")
    _learn_tables(config, width=16, learning_rate=0.02)
    _train(config, batch_size=512, epochs=3, patience=2)
    return config


def start_movielens_small() -> ConfigDict:
    """MovieLens latest-small: 3 ages of films x click, like; a user is what he or she did before."""
    config = _start_raw("MovieLens latest-small", "movielens_small")
    _learn_tables(config, width=16, learning_rate=0.005)
    _train(config, batch_size=512, epochs=3, patience=3)
    config.training.evaluate_every_steps = 50  # of 158 an epoch: the rows of 500 users are learnt by heart soon
    return config


def start_movielens_1m() -> ConfigDict:
    """MovieLens-1M as M3oE has it: 3 ages of users x click, like."""
    config = _start_raw("MovieLens-1M", "movielens_1m")
    _learn_tables(config, width=16, learning_rate=0.02)  # D is M3oE's
    _train(config, batch_size=4096, epochs=20, patience=3)
    return config


def start_kuairand_pure() -> ConfigDict:
    """KuaiRand-Pure as M3oE has it: 3 tabs x click, long_view."""
    config = _start_raw("KuaiRand-Pure", "kuairand_pure")
    _learn_tables(config, width=16, learning_rate=0.02)  # D is M3oE's
    _train(config, batch_size=4096, epochs=20, patience=2)
    return config


def start_kuai_video_objectives() -> ConfigDict:
    """KuaiVideo: 1 domain x click, like, follow; from row blocks, trained as `configs/kuai_video.py` is."""
    config = start_config()
    config.name = "KuaiVideo, three objectives"
    config.data.format = "blocks"
    config.embeddings.width = 64
    config.embeddings.initial_scale = 0.02
    config.embeddings.pooling = "mean"
    config.embeddings.optimizer.kind = "lazy_adam"
    config.embeddings.optimizer.learning_rate = 1e-3
    config.embeddings.optimizer.l2 = 1e-4
    config.optimizer.clip_norm = 10.0
    _train(config, batch_size=8192, epochs=100, patience=2)
    config.training.plateau_factor = 0.1
    return config


def use_wukong(config: ConfigDict, options: Mapping[str, Any]) -> ConfigDict:
    """Completes a config with Wukong: one model, one head an objective, the domain a feature like others."""
    config.name = f"Wukong on {config.name}"
    config.model.factory = "wukong_jax.models.wukong:build"
    config.model.options = dict(options)
    return config


def _start_raw(title: str, schema: str) -> ConfigDict:
    config = start_config()
    config.name = title
    config.data.format = "raw"
    config.data.schema = schema
    return config


def _learn_tables(config: ConfigDict, *, width: int, learning_rate: float) -> None:
    config.embeddings.width = width
    config.embeddings.initial_scale = 0.02
    config.embeddings.pooling = "mean"
    config.embeddings.optimizer.kind = "rowwise_adagrad"
    config.embeddings.optimizer.learning_rate = learning_rate


def _train(config: ConfigDict, *, batch_size: int, epochs: int, patience: int) -> None:
    """Adam at 1e-3 until the mean AUC of the validation rows stalls, a third of the rate after each stall."""
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-3
    config.training.batch_size = batch_size
    config.training.epochs = epochs
    config.training.log_every_steps = 100
    config.training.early_stop_metric = "auc"
    config.training.early_stop_patience = patience
    config.training.plateau_factor = 0.3

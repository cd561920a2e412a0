"""Shared parts of the configs with several domains and objectives: data, embeddings, training and models.

This is no config by itself; `configs/public/hotel_bookings.py` and others import it and choose the model.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ml_collections import ConfigDict

from wukong_jax.config import start_config
from wukong_jax.errors import UserError


def start_hotel_bookings() -> ConfigDict:
    """Starts the config of hotel bookings: 2 hotels x canceled, special_request, parking."""
    config = _start_raw("hotel bookings", "hotel_bookings")
    _learn_tables(config, width=16, learning_rate=0.02)
    _train(config, batch_size=512, epochs=3, patience=2)
    return config


def start_movielens_small() -> ConfigDict:
    """Starts the config of MovieLens latest-small: 3 ages of films x click, like; users are described by history."""
    config = _start_raw("MovieLens latest-small", "movielens_small")
    _learn_tables(config, width=16, learning_rate=0.005)
    _train(config, batch_size=512, epochs=3, patience=3)
    config.training.evaluate_every_steps = 50  # of 158 per epoch; the rows of 500 users are soon overfitted
    return config


def start_movielens_1m() -> ConfigDict:
    """Starts the config of MovieLens-1M as in M3oE: 3 ages of users x click, like."""
    config = _start_raw("MovieLens-1M", "movielens_1m")
    _learn_tables(config, width=16, learning_rate=0.02)  # D as in M3oE
    _train(config, batch_size=4096, epochs=20, patience=3)
    return config


def start_kuairand_pure() -> ConfigDict:
    """Starts the config of KuaiRand-Pure as in M3oE: 3 tabs x click, long_view."""
    config = _start_raw("KuaiRand-Pure", "kuairand_pure")
    _learn_tables(config, width=16, learning_rate=0.02)  # D as in M3oE
    _train(config, batch_size=4096, epochs=20, patience=2)
    return config


def start_kuai_video_objectives() -> ConfigDict:
    """Starts the config of KuaiVideo: 1 domain x click, like, follow; row blocks, trained as in `kuai_video.py`."""
    config = start_config()
    config.name = "KuaiVideo, three objectives"
    config.data.factory = "blocks"
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


def start_prepared() -> ConfigDict:
    """Starts the config of row blocks of any domains and objectives, whose folder is `config.data.path`."""
    config = start_config()
    config.name = "prepared rows"
    config.data.factory = "blocks"
    _learn_tables(config, width=16, learning_rate=0.02)
    _train(config, batch_size=512, epochs=3, patience=2)
    return config


# Wukong for the small sets.
SMALL_WUKONG = {
    "layers": 1,
    "fmb_tokens": 8,
    "lcb_tokens": 8,
    "rank": 8,
    "fmb_hidden": (64,),
    "head_hidden": (64,),
    "bottom_hidden": (32,),
    "fmb_dropout": 0.1,
    "head_dropout": 0.1,
}
# Wukong for the sets of the M3oE protocol.
M3OE_WUKONG = {
    "layers": 2,
    "fmb_tokens": 8,
    "lcb_tokens": 8,
    "rank": 8,
    "fmb_hidden": (128,),
    "head_hidden": (128, 64),
    "bottom_hidden": (32,),
    "fmb_dropout": 0.1,
    "head_dropout": 0.1,
}
# Models for several domains and objectives; the keys of BASELINES are variants of configs.
LATTICE = {
    "layers": 2,
    "fusion": {"fmb_tokens": 8, "lcb_tokens": 8, "rank": 8, "hidden": (64,)},
    "head_hidden": 32,
    "head_dropout": 0.1,
    "embedding_dropout": 0.1,
}
HSTU = {
    "token_width": 32,
    "layers": 2,
    "heads": 2,
    "query_width": 8,
    "value_width": 16,
    "bottom_hidden": (32,),
    "head_hidden": (64,),
    "head_dropout": 0.1,
    "embedding_dropout": 0.1,
}
BASELINES: Mapping[str, Mapping[str, Any]] = {
    "separate": {"bottom_hidden": (32,), "tower_hidden": (64, 64)},
    "shared_bottom": {"bottom_hidden": (32,), "shared_hidden": (128, 64), "tower_hidden": (32,)},
    "mmoe": {"bottom_hidden": (32,), "experts": 4, "expert_hidden": (64,), "tower_hidden": (32,)},
    "ple": {
        "bottom_hidden": (32,),
        "levels": 2,
        "shared_experts": 2,
        "task_experts": 1,
        "expert_hidden": (64,),
        "tower_hidden": (32,),
    },
    "star": {"bottom_hidden": (32,), "star_hidden": (128, 64), "auxiliary_hidden": (32,)},
    "adatt": {"bottom_hidden": (32,), "levels": 2, "task_experts": 1, "expert_hidden": (64,), "tower_hidden": (32,)},
    "pepnet": {"bottom_hidden": (32,), "prior_columns": (), "tower_hidden": (128, 64)},
}


def use_model(
    config: ConfigDict,
    name: str,
    wukong: Mapping[str, Any],
    sequences: tuple[str, ...] = (),
    sizes: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    target: tuple[str, ...] = (),
) -> ConfigDict:
    """Adds one of the models to a config.

    Args:
      config: config without a model.
      name: "wukong" (one model with an output per objective and the domain as a feature), "lattice", a key of
        `BASELINES`, or, with sequences, "hstu" (as "wukong").
      wukong: options of Wukong.
      sequences: columns that Lattice and HSTU read event by event; other models pool them.
      sizes: options of baselines that replace the usual ones for this set, by name.
      target: columns of HSTU's candidate.

    Raises:
      UserError: there is no such model.
    """
    known = ("wukong", "lattice", *BASELINES, *(("hstu",) if sequences else ()))
    if name not in known:
        raise UserError(f"model {name!r}: {', '.join(known)}")
    config.name = f"{name} on {config.name}"
    if name == "wukong":
        config.model.factory, options = "wukong_jax.models.wukong:build", wukong
    elif name == "lattice":
        config.model.factory, options = "lattice.network:build", {**LATTICE, "sequences": sequences}
    elif name == "hstu":
        config.model.factory = "wukong_jax.models.hstu:build"
        options = {**HSTU, "sequences": sequences, "target": target}
    else:
        config.model.factory, options = f"lattice.baselines.{name}:build", {**BASELINES[name], **sizes.get(name, {})}
    config.model.options = ConfigDict(options)
    if name in ("lattice", "hstu"):
        config.embeddings.fields = ConfigDict({column: {"pooling": "none"} for column in sequences})
    return config


def _start_raw(title: str, schema: str) -> ConfigDict:
    config = start_config()
    config.name = title
    config.data.factory = "raw"
    config.data.schema = schema
    return config


def _learn_tables(config: ConfigDict, *, width: int, learning_rate: float) -> None:
    config.embeddings.width = width
    config.embeddings.initial_scale = 0.02
    config.embeddings.pooling = "mean"
    config.embeddings.optimizer.kind = "rowwise_adagrad"
    config.embeddings.optimizer.learning_rate = learning_rate


def _train(config: ConfigDict, *, batch_size: int, epochs: int, patience: int) -> None:
    """Sets Adam at 1e-3 with early stopping by mean validation AUC, and 0.3 of the rate after each stall."""
    config.optimizer.factory = "adam"
    config.optimizer.learning_rate = 1e-3
    config.training.batch_size = batch_size
    config.training.epochs = epochs
    config.training.log_every_steps = 100
    config.training.early_stop_metric = "auc"
    config.training.early_stop_patience = patience
    config.training.plateau_factor = 0.3

"""Wukong in JAX: data, embeddings, models, metrics and the trainer, on which DMT and Lattice are built.

    import wukong_jax

    config = wukong_jax.load_config("quickstart")
    wukong_jax.train(config, "runs/mine")
    run = wukong_jax.open_run("runs/mine")
    run.evaluate("test"), run.predict(rows), run.metrics()

Names are imported on first use, so that importing the package is fast and initializes no device.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wukong_jax.api import train
    from wukong_jax.config_files import load_config
    from wukong_jax.models.model_list import list_models
    from wukong_jax.runs.open_run import OpenRun, open_run
    from wukong_jax.schema import Schema
    from wukong_jax.training.loop import Listener

__all__ = ["Listener", "OpenRun", "Schema", "list_models", "load_config", "open_run", "train"]

_MODULES = {
    "Listener": "wukong_jax.training.loop",
    "OpenRun": "wukong_jax.runs.open_run",
    "Schema": "wukong_jax.schema",
    "list_models": "wukong_jax.models.model_list",
    "load_config": "wukong_jax.config_files",
    "open_run": "wukong_jax.runs.open_run",
    "train": "wukong_jax.api",
}


def __getattr__(name: str) -> Any:
    """Imports a public name on first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Lists the public names, including those not yet imported."""
    return sorted({*globals(), *__all__})

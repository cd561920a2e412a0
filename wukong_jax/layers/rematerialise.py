"""Rematerialisation by layer: a layer's activations are computed again in the backward pass instead of being kept.

Only a layer's inputs are kept. This costs one more forward pass (a third of the step's FLOPs) and saves memory, also
that of gathered weights (`training.dense_shards`), which are gathered again.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import flax.linen as nn
import jax

_inside: ContextVar[bool] = ContextVar("inside a layer that is rematerialised", default=False)


def is_layer(module: nn.Module) -> bool:
    """Whether a module is a unit of rematerialisation: a linear layer, or a module whose class sets `is_layer = True`.

    Layers inside a layer are a part of it.
    """
    return isinstance(module, nn.Dense) or getattr(type(module), "is_layer", False)


@contextlib.contextmanager
def rematerialise_layers() -> Iterator[None]:
    """Rematerialises every layer that is traced in the body."""
    with nn.intercept_methods(_rematerialise):
        yield


@contextlib.contextmanager
def list_layers() -> Iterator[list[str]]:
    """Yields a list that gets the path of every layer that is traced in the body."""
    paths: list[str] = []

    def note(next_function: Callable[..., Any], arguments: Any, keywords: Any, context: Any) -> Any:
        if context.method_name == "__call__" and is_layer(context.module):
            paths.append("/".join(context.module.path))
        return next_function(*arguments, **keywords)

    with nn.intercept_methods(note):
        yield paths


def _rematerialise(next_function: Callable[..., Any], arguments: Any, keywords: Any, context: Any) -> Any:
    if context.method_name != "__call__" or _inside.get() or not is_layer(context.module):
        return next_function(*arguments, **keywords)
    leaves, structure = jax.tree.flatten((arguments, keywords))
    arrays = {index: leaf for index, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)}  # others are static

    def call(layer: nn.Module, arrays: dict[int, jax.Array]) -> Any:
        positional, named = jax.tree.unflatten(structure, [arrays.get(i, leaf) for i, leaf in enumerate(leaves)])
        token = _inside.set(True)
        try:
            return layer(*positional, **named)
        finally:
            _inside.reset(token)

    return nn.remat(call)(context.module, arrays)

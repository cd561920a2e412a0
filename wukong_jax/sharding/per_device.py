"""Code that runs on every device by itself (manual sharding): sums over the batch, and where a network runs so.

A network is usually traced for the whole batch, and the compiler splits it. Where dense weights are gathered by hand
(`training.dense_shards`), it is traced for the rows of one device instead. Two things then need to know: whatever adds
up over the batch, and exchanges, which say how the arguments of the network are sharded.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Protocol

import jax

_axes: ContextVar[tuple[str, ...]] = ContextVar("mesh axes over which the traced rows are split", default=())


class Runner(Protocol):
    """Runs a function of the network on every device; see `run_on_devices`."""

    def run(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], in_specs: Any, out_specs: Any, kept: bool
    ) -> Any:
        """Runs the function on the devices' parts of the arguments."""


_runner: ContextVar[Runner | None] = ContextVar("runner of the network", default=None)


@contextlib.contextmanager
def split_rows_over(axes: tuple[str, ...]) -> Iterator[None]:
    """Tells the code that is traced in the body, inside `shard_map`, that it sees only one device's rows."""
    token = _axes.set(axes)
    try:
        yield
    finally:
        _axes.reset(token)


def sum_over_devices(values: jax.Array) -> jax.Array:
    """Adds up a sum over the traced rows to the sum over the batch."""
    axes = _axes.get()
    return jax.lax.psum(values, axes) if axes else values


def max_over_devices(values: jax.Array) -> jax.Array:
    """Returns the largest over the batch from the largest over the traced rows; not differentiable."""
    axes = _axes.get()
    return jax.lax.pmax(jax.lax.stop_gradient(values), axes) if axes else values


@contextlib.contextmanager
def run_networks_by(runner: Runner) -> Iterator[None]:
    """Makes `run_on_devices` use a runner in the body."""
    token = _runner.set(runner)
    try:
        yield
    finally:
        _runner.reset(token)


def run_on_devices(
    network: Any,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    in_specs: Any,
    out_specs: Any,
    kept: bool = False,
) -> Any:
    """Calls a function of a network; exchanges call networks this way, so that each device can use its own weights.

    Args:
      network: bound network.
      function: function of (bound network, *arguments); rows are independent of each other but for the sums of this
        module.
      arguments: pytrees of arrays of the whole batch.
      in_specs: how each argument is sharded, as for `jax.shard_map`.
      out_specs: how the results are sharded.
      kept: whether the function reads the weights that the exchange keeps with its tables (`parameter_rules`), and no
        others. Its rows are then split over the chips of each host; the axis "host" stays whole.

    Returns:
      The result for the whole batch.
    """
    runner = _runner.get()
    if runner is None:
        return function(network, *arguments)
    return runner.run(function, arguments, in_specs, out_specs, kept)

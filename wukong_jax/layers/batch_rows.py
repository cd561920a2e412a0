"""What layers may know of the rows of a batch: their numbers in it, and which of them count.

Most layers treat each row alone. Dropout and batch norm do not, and a train step that works in microbatches, or whose
last batch is padded, has to tell them.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from contextvars import ContextVar

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class _BatchRows:
    numbers: jax.Array
    counted: jax.Array


_batch_rows: ContextVar[_BatchRows | None] = ContextVar("batch_rows", default=None)


@contextlib.contextmanager
def describe_rows(numbers: jax.Array, counted: jax.Array) -> Iterator[None]:
    """Describes the rows to all layers that are traced in the body.

    Args:
      numbers: [b] int32, the number of each row in the whole batch.
      counted: [b] bool, whether a row counts in moments over the batch; padding does not.
    """
    token = _batch_rows.set(_BatchRows(numbers, counted))
    try:
        yield
    finally:
        _batch_rows.reset(token)


def find_rows() -> tuple[jax.Array, jax.Array] | None:
    """Returns what `describe_rows` was given last; None if nothing."""
    described = _batch_rows.get()
    return None if described is None else (described.numbers, described.counted)


def row_numbers(rows: int) -> jax.Array:
    """Returns the rows' numbers in the batch, [rows] int32; outside `describe_rows` 0 to rows - 1."""
    described = _batch_rows.get()
    return jnp.arange(rows) if described is None else described.numbers


def counted_rows(rows: int) -> jax.Array:
    """Returns which rows count, [rows] bool; outside `describe_rows` all do."""
    described = _batch_rows.get()
    return jnp.ones(rows, bool) if described is None else described.counted

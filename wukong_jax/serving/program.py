"""Builds and exports the program of an artefact: from a batch's ids and dense features to logits.

It is the forward pass of training, with each table as an argument of its own (in training, tables of one width and
optimizer are stacked), and with all arguments in plain lists, which JAX can store with the program.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from wukong_jax.data.blocks.batch import Batch
from wukong_jax.embeddings.layout import EmbeddingLayout
from wukong_jax.embeddings.pooling import pool_fields
from wukong_jax.embeddings.row_gather import gather_rows
from wukong_jax.errors import UserError
from wukong_jax.layers.batch_norm import STATISTICS
from wukong_jax.messages import describe_error
from wukong_jax.serving.artefact import ServedTable
from wukong_jax.training.network import Network
from wukong_jax.training.run import Run
from wukong_jax.training.state import TrainState

PLATFORMS = ("cpu", "cuda", "tpu")
_KINDS = {"float32": np.float32, "bfloat16": np.uint16, "int8": np.int8}


@dataclasses.dataclass(frozen=True)
class ServedNetwork:
    """A network with its weights as a flat list."""

    network: Network
    names: tuple[str, ...]  # path of each leaf
    leaves: tuple[Any, ...]
    tree: Any

    def __call__(self, leaves: Sequence[jax.Array], values: dict[str, jax.Array], batch: Batch) -> jax.Array:
        """Returns logits [B, O] float32 for vectors by stack name, as the exchange collects them."""

        def run(bound: Network) -> jax.Array:
            return bound.start_at_rate(bound(values, batch, train=False), batch.domain).logits

        return nn.apply(run, self.network)(jax.tree.unflatten(self.tree, list(leaves)))


def flatten_network(run: Run, state: TrainState) -> ServedNetwork:
    """Takes the weights and running statistics of a state apart."""
    variables = {"params": state.params, STATISTICS: state.statistics}
    with_paths, tree = jax.tree_util.tree_flatten_with_path(variables)
    names = tuple(jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in with_paths)
    return ServedNetwork(run.network, names, tuple(leaf for _, leaf in with_paths), tree)


def export_program(
    served: ServedNetwork,
    tables: Sequence[ServedTable],
    dense: int,
    extras: Mapping[str, int],
    platforms: Sequence[str] = PLATFORMS,
) -> bytes:
    """Traces the program for an unknown number of rows `b`, and serialises it.

    Its arguments are: the leaves of the network, the arrays of each table, dense [b, F_dense] float32, ids [b, S] int32
    (-1 = no id), domain [b] int32, and extras [b, width] float32 by name. Its result is logits [b, O] float32.

    Args:
      served: the network.
      tables: the tables.
      dense: number of dense columns.
      extras: width of each joined column.
      platforms: platforms of JAX to export for.

    Raises:
      UserError: a platform is unknown, or the model cannot be traced with an unknown number of rows.
    """
    layout = served.network.layout
    program = build_program(served, tables)
    (rows,) = export.symbolic_shape("b")
    shape = jax.ShapeDtypeStruct
    arguments = (
        [shape(leaf.shape, leaf.dtype) for leaf in served.leaves],
        [_table_shapes(table) for table in tables],
        shape((rows, dense), jnp.float32),
        shape((rows, layout.slots), jnp.int32),
        shape((rows,), jnp.int32),
        {name: shape((rows, width), jnp.float32) for name, width in extras.items()},
    )
    with _describing_failures(platforms):
        return bytes(export.export(jax.jit(program), platforms=list(platforms))(*arguments).serialize())


def build_program(served: ServedNetwork, tables: Sequence[ServedTable]) -> Any:
    """Builds the function that `export_program` traces."""
    layout, places = served.network.layout, {table.name: index for index, table in enumerate(tables)}

    def score(
        leaves: list[jax.Array],
        arrays: list[tuple[jax.Array, ...]],
        dense: jax.Array,
        ids: jax.Array,
        domain: jax.Array,
        extras: dict[str, jax.Array],
    ) -> jax.Array:
        values = collect_vectors(layout, {name: arrays[index] for name, index in places.items()}, ids)
        return served(leaves, values, batch_of(dense, ids, domain, extras))

    return score


def batch_of(dense: jax.Array, ids: jax.Array, domain: jax.Array, extras: Mapping[str, jax.Array]) -> Batch:
    """Returns a batch of what a network reads; its other columns are None."""
    columns: dict[str, Any] = dict.fromkeys(Batch._fields)
    return Batch(**columns | {"dense": dense, "ids": ids, "domain": domain, "extras": extras})


def collect_vectors(
    layout: EmbeddingLayout, tables: Mapping[str, tuple[jax.Array, ...]], ids: jax.Array
) -> dict[str, jax.Array]:
    """Reads and pools the rows of a batch; equals the exchange's result on one device.

    Args:
      layout: the layout.
      tables: arrays of each table by name, see `map_table`.
      ids: [B, S] int32, -1 = no id.

    Returns:
      [B, vectors of the stack, w] float32 by stack name.
    """
    collected = {}
    for index, stack in enumerate(layout.stacks):
        fields = layout.fields_of_stack(index)
        read = [_read_rows(tables[field.table], ids[:, slice(*field.slots)]) for field in fields]
        collected[stack.name] = pool_fields(fields, jnp.concatenate(read, axis=1), ids)
    return collected


def _read_rows(table: tuple[jax.Array, ...], ids: jax.Array) -> jax.Array:
    """Returns rows [B, slots, w] float32, zeros for ids outside the table."""
    rows = table[0]
    row_ids = jnp.where((ids >= 0) & (ids < len(rows)), ids, len(rows))
    if rows.dtype != jnp.int8:
        return gather_rows(rows, row_ids)
    whole, scales = (array.at[row_ids].get(mode="fill", fill_value=0) for array in table)
    return whole.astype(jnp.float32) * scales[..., None]


def _table_shapes(table: ServedTable) -> tuple[jax.ShapeDtypeStruct, ...]:
    rows = jax.ShapeDtypeStruct((table.rows, table.width), _KINDS[table.dtype])
    return (rows, jax.ShapeDtypeStruct((table.rows,), jnp.float32)) if table.dtype == "int8" else (rows,)


@contextlib.contextmanager
def _describing_failures(platforms: Sequence[str]) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        raise UserError(
            f"--platforms = {','.join(platforms)}: the model cannot be exported ({describe_error(error)}); leave out a "
            "platform, or write the model for any number of rows"
        ) from error

"""The flat exchange: every rank sends to every other, whatever link lies between them.

The honest baseline of hierarchical exchanges, and useful in itself where links are alike. Table-wise and column-wise
tables: ids go by one all-to-all over both mesh axes to the ranks that hold their rows, pooled vectors come back by
another. Row-wise tables: every rank sees all ids, adds up the vectors of the rows it holds, and a reduce-scatter adds
these up over the ranks. Replicated tables are read where the batch is.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from wukong_jax.embeddings.exchange import ReplicatedExchange, ReplicatedIds
from wukong_jax.embeddings.layout import EmbeddingLayout, restrict_layout
from wukong_jax.embeddings.message_dtype import add_in, send_in
from wukong_jax.embeddings.placed_exchange import (
    BY_RANK,
    ExchangeDtype,
    PlacedExchange,
    PlacedExchangeOptions,
    PlacedIds,
    Rows,
    concatenate_flat,
    exchange_over,
    split_flat,
)
from wukong_jax.embeddings.placement import Placement, build_placement
from wukong_jax.embeddings.placement_planner import Plan, format_plan, plan_placement, read_budget
from wukong_jax.embeddings.rearrange import take_vectors
from wukong_jax.embeddings.sparse_update import RowStep
from wukong_jax.embeddings.tables import LogicalTables, Tables
from wukong_jax.errors import UserError
from wukong_jax.sharding.mesh import MESH_AXES, compute_rank
from wukong_jax.strict_mapping import build_dataclass

FlatRouted = tuple[ReplicatedIds, PlacedIds]


def build(options: Mapping[str, Any], layout: EmbeddingLayout, mesh: Mesh, model: Any) -> "FlatExchange":
    """Plans the tables' placement and builds the exchange.

    Args:
      options: keys of `PlacedExchangeOptions`.
      layout: the tables.
      mesh: axes ("host", "chip").
      model: not used; what comes after the exchange does not matter to it.

    Raises:
      UserError: an unknown option or table, or tables that do not fit.
    """
    del model
    chosen = build_dataclass(PlacedExchangeOptions, options, "config.exchange.options")
    try:
        budget, number_bytes = read_budget(chosen.memory_gib), jnp.dtype(chosen.dtype).itemsize
        plan = plan_placement(layout, mesh.size, chosen.placement, chosen.tables, budget, number_bytes)
        placement = build_placement(layout, plan.placements, mesh.size)
        return FlatExchange(layout, mesh, placement, chosen.dtype, plan)
    except UserError as error:
        raise UserError(f"config.exchange.options, {error}") from None


class FlatExchange(PlacedExchange):
    """Any mix of replicated, table-wise, column-wise and row-wise tables over the whole mesh; see `Exchange`."""

    def __init__(
        self,
        layout: EmbeddingLayout,
        mesh: Mesh,
        placement: Placement,
        dtype: ExchangeDtype = "float32",
        plan: Plan | None = None,
    ):
        """Plans the messages.

        Args:
          layout: see `PlacedExchange`, as the next three.
          mesh: there.
          placement: there.
          dtype: there.
          plan: why the placement is what it is, to be shown.

        Raises:
          UserError: a row-wise table that does not lie on all ranks.
        """
        super().__init__(layout, mesh, placement, dtype)
        self.plan = plan
        for stack in placement.stacks:
            if stack.strategy == "row_wise" and stack.shards != mesh.size:
                raise UserError(
                    f"tables {', '.join(stack.tables)}: row_wise over {stack.shards} ranks; the flat exchange splits "
                    f"rows over all {mesh.size}"
                )
        self.replicated = ReplicatedExchange(restrict_layout(layout, placement.replicated), mesh)
        self._sent = [stack.name for stack in placement.stacks if stack.strategy != "row_wise"]
        self._spread = [stack.name for stack in placement.stacks if stack.strategy == "row_wise"]

    @property
    def table_sharding(self) -> dict[str, NamedSharding]:
        """Stack name to how its arrays lie on the mesh."""
        return self.replicated.table_sharding | super().table_sharding

    def describe(self) -> str:
        """The plan of the placement, where a planner made it."""
        if not self.lookups:
            return self.replicated.describe()
        if self.plan is not None:
            return format_plan(self.plan)
        return "\n".join(f"{table}: {placed.strategy}" for table, placed in self.placement.tables.items())

    def init_tables(self, key: jax.Array) -> Tables:
        """Makes the tables of a new run."""
        return self.replicated.init_tables(key) | super().init_tables(key)

    def export_tables(self, tables: Tables) -> LogicalTables:
        """Copies the tables to the host, one entry per table whatever its placement."""
        return self.replicated.export_tables(tables) | super().export_tables(tables)

    def import_tables(self, logical: Mapping[str, Mapping[str, np.ndarray]]) -> Tables:
        """The inverse of `export_tables`, from tables saved under any placement; see `PlacedExchange`."""
        placed = super().import_tables(logical)  # refuses missing tables of either kind
        own = {name: arrays for name, arrays in logical.items() if name in self.placement.replicated}
        return self.replicated.import_tables(own) | placed

    def route_ids(self, ids: jax.Array) -> FlatRouted:
        """Brings ids to the ranks that hold their rows; see `Exchange`."""
        return self.replicated.route_ids(ids), super().route_ids(ids) if self.lookups else {}

    def route_local(self, ids: jax.Array) -> PlacedIds:
        """One all-to-all and one all-gather of ids; see `PlacedExchange`."""
        rank = compute_rank(self.mesh)
        # Padding reads the column behind the last: no id.
        extended = jnp.pad(ids, ((0, 0), (0, 1)), constant_values=-1)
        arrived: dict[str, jax.Array] = {}
        if self._sent:
            slots = np.concatenate([self.lookups[name].slots for name in self._sent], axis=1)  # [ranks, slots]
            message = extended[:, slots.reshape(-1)].reshape(len(ids), *slots.shape).transpose(1, 0, 2)
            message = exchange_over(message, MESH_AXES).reshape(-1, slots.shape[1])
            arrived |= self._split_slots(message, self._sent)
        if self._spread:
            slots = np.concatenate([self.lookups[name].slots[0] for name in self._spread])  # the same on every rank
            message = jax.lax.all_gather(extended[:, slots], MESH_AXES, axis=0, tiled=True)
            arrived |= self._split_slots(message, self._spread)
        return {name: self.lookups[name].find_rows(rank, own) for name, own in arrived.items()}

    def gather(self, tables: Tables, routed: FlatRouted) -> Rows:
        """Reads the rows, where they lie; see `Exchange`."""
        copies, placed = routed
        return self.replicated.gather(tables, copies) | (super().gather(tables, placed) if placed else {})

    def collect(self, rows: Rows, routed: FlatRouted) -> dict[str, jax.Array]:
        """Brings vectors to the devices of the batch; see `Exchange`."""
        copies, placed = routed
        here = self.replicated.collect({name: rows[name] for name in copies.row_ids}, copies)
        if not placed:
            return here
        with jax.named_scope("collect"):
            return self.map_shards(self._collect_local, (BY_RANK, BY_RANK, BY_RANK))(
                here, {name: rows[name] for name in placed}, placed
            )

    def apply_row_gradients(
        self, tables: Tables, routed: FlatRouted, rows: Rows, row_gradients: Rows, row_step: RowStep
    ) -> Tables:
        """Takes the row optimizers' step; see `Exchange`."""
        copies, placed = routed
        updated = self.replicated.apply_row_gradients(tables, copies, rows, row_gradients, row_step)
        return updated | (super().apply_row_gradients(tables, placed, rows, row_gradients, row_step) if placed else {})

    def _split_slots(self, message: jax.Array, names: list[str]) -> dict[str, jax.Array]:
        pieces = jax.lax.split(message, [self.lookups[name].slots_per_rank for name in names], axis=1)
        return dict(zip(names, pieces, strict=True))

    def _collect_local(self, here: dict[str, jax.Array], rows: Rows, routed: PlacedIds) -> dict[str, jax.Array]:
        """Vectors of every stack of the layout, [B / ranks, vectors, w] each; shard-local."""
        ranks = self.mesh.size
        pooled = {name: self.lookups[name].pool(rows[name], routed[name]) for name in rows}
        arrived: dict[str, jax.Array] = {}
        if self._sent:
            parts = {name: pooled[name].reshape(ranks, -1, *pooled[name].shape[1:]) for name in self._sent}
            send = send_in(self.dtype, functools.partial(exchange_over, axis_name=MESH_AXES))
            message = send(concatenate_flat(parts))
            shapes = {name: (part.shape[2], part.shape[3]) for name, part in parts.items()}
            arrived |= {name: part.transpose(1, 0, 2, 3) for name, part in split_flat(message, shapes).items()}
        for name in self._spread:
            scatter = functools.partial(jax.lax.psum_scatter, axis_name=MESH_AXES, scatter_dimension=0, tiled=True)
            arrived[name] = add_in(self.dtype, scatter)(pooled[name])[:, None]
        return {stack.name: self._join_stack(index, here, arrived) for index, stack in enumerate(self.layout.stacks)}

    def _join_stack(self, index: int, here: Mapping[str, jax.Array], arrived: Mapping[str, jax.Array]) -> jax.Array:
        """Puts a stack's vectors in the schema's order, whatever part they come from."""
        stack = self.layout.stacks[index]
        parts, order = [], []
        for name, lookups in self.lookups.items():
            if lookups.stack.source == index:
                vectors, positions = _join_columns(arrived[name], lookups.vectors[: arrived[name].shape[1]])
                parts.append(vectors.reshape(len(vectors), len(positions), stack.width))
                order += positions
        if stack.name in here:
            kept = self.placement.replicated
            first = 0
            for field in self.layout.fields_of_stack(index):
                order += range(first, first + field.vectors) if field.table in kept else []
                first += field.vectors
            parts.append(here[stack.name])
        joined = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)
        return take_vectors(joined, np.argsort(order))


def _join_columns(arrived: jax.Array, positions: np.ndarray) -> tuple[jax.Array, list[int]]:
    """Drops padding and puts the column pieces of a vector side by side.

    Args:
      arrived: [b, owners, Q, w].
      positions: [owners, Q] each piece's vector among those of the layout stack, -1 for padding.

    Returns:
      [b, vectors * pieces, w], the pieces of a vector neighbours in the order of their owners; and the vectors,
      ascending.
    """
    flat = positions.reshape(-1)
    present = np.flatnonzero(flat >= 0)
    index = present[np.argsort(flat[present], kind="stable")]
    vectors = arrived.reshape(len(arrived), len(flat), arrived.shape[-1])
    return take_vectors(vectors, index), sorted(set(flat[present].tolist()))

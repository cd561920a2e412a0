"""Provides the flat exchange, in which every rank sends to every other, regardless of the links between them.

It is the baseline for hierarchical exchanges, and useful by itself if all links are equal. For table-wise and
column-wise tables, one all-to-all over both mesh axes sends ids to the ranks that hold their rows, and another returns
pooled vectors. For row-wise tables, every rank receives all ids and sums the vectors of its rows, and a reduce-scatter
sums these over the ranks. Replicated tables are read locally.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from wukong_jax.data.blocks.batch import BagShare
from wukong_jax.embeddings.exchange import ReplicatedExchange, ReplicatedIds, StoredPiece
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
      layout: layout of the tables.
      mesh: mesh with axes ("host", "chip").
      model: ignored; the flat exchange does not depend on the model.

    Raises:
      UserError: an option or table is unknown, or the tables do not fit.
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
          layout: see `PlacedExchange`.
          mesh: see `PlacedExchange`.
          placement: see `PlacedExchange`.
          dtype: see `PlacedExchange`.
          plan: plan with the reasons for the placement, for `describe`.

        Raises:
          UserError: a row-wise table is not split over all ranks.
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
        """Sharding of the arrays of each stack, by stack name."""
        return self.replicated.table_sharding | super().table_sharding

    def describe(self) -> str:
        """Describes the placement, with the plan if there is one."""
        if not self.lookups:
            return self.replicated.describe()
        if self.plan is not None:
            return format_plan(self.plan)
        return "\n".join(f"{table}: {placed.strategy}" for table, placed in self.placement.tables.items())

    def init_tables(self, key: jax.Array) -> Tables:
        """Creates the tables of a new run."""
        return self.replicated.init_tables(key) | super().init_tables(key)

    def export_tables(self, tables: Tables) -> LogicalTables:
        """Copies the tables to the host, one entry per table regardless of placement."""
        return self.replicated.export_tables(tables) | super().export_tables(tables)

    def import_tables(self, logical: Mapping[str, Mapping[str, np.ndarray]]) -> Tables:
        """Creates tables from the result of `export_tables` under any placement; see `PlacedExchange`."""
        placed = super().import_tables(logical)  # also checks that no replicated table is missing
        own = {name: arrays for name, arrays in logical.items() if name in self.placement.replicated}
        return self.replicated.import_tables(own) | placed

    def list_pieces(self) -> dict[str, list[StoredPiece]]:
        """Lists the pieces of all ranks, and the rows of replicated tables; see `Exchange`."""
        return self.replicated.list_pieces() | super().list_pieces()

    def measure_bag_fill(self, lengths: Mapping[str, np.ndarray]) -> float | None:
        """Measures how full the slots of bags are; see `Exchange`."""
        return max(self.replicated.measure_bag_fill(lengths) or 0.0, super().measure_bag_fill(lengths) or 0.0)

    def route_ids(self, ids: jax.Array, share: BagShare | None = None) -> FlatRouted:
        """Sends ids to the ranks that hold their rows; see `Exchange`."""
        return self.replicated.route_ids(ids, share), super().route_ids(ids, share) if self.lookups else {}

    def keep_by_row(self, routed: FlatRouted) -> FlatRouted:
        """Drops the bags laid flat, which are summed already; see `Exchange`."""
        copies, placed = routed
        return self.replicated.keep_by_row(copies), super().keep_by_row(placed)

    def route_local(self, ids: jax.Array, share: BagShare | None = None) -> PlacedIds:
        """Sends ids by one all-to-all and one all-gather; see `PlacedExchange`."""
        rank = compute_rank(self.mesh)
        # Padding (-1) reads an appended column without ids.
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
        return {name: self.lookups[name].find_rows(rank, own, share) for name, own in arrived.items()}

    def gather(self, tables: Tables, routed: FlatRouted) -> Rows:
        """Reads the rows on the ranks that hold them; see `Exchange`."""
        copies, placed = routed
        return self.replicated.gather(tables, copies) | (super().gather(tables, placed) if placed else {})

    def collect(self, rows: Rows, routed: FlatRouted) -> dict[str, jax.Array]:
        """Sends vectors to the devices of the batch; see `Exchange`."""
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
        """Applies the row optimizers; see `Exchange`."""
        copies, placed = routed
        updated = self.replicated.apply_row_gradients(tables, copies, rows, row_gradients, row_step)
        return updated | (super().apply_row_gradients(tables, placed, rows, row_gradients, row_step) if placed else {})

    def _split_slots(self, message: jax.Array, names: list[str]) -> dict[str, jax.Array]:
        pieces = jax.lax.split(message, [self.lookups[name].slots_per_rank for name in names], axis=1)
        return dict(zip(names, pieces, strict=True))

    def _collect_local(self, here: dict[str, jax.Array], rows: Rows, routed: PlacedIds) -> dict[str, jax.Array]:
        """Returns the vectors of every layout stack, [B / ranks, vectors, w] each; shard-local."""
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
        """Joins a stack's vectors from its placed and replicated tables, in the schema's order."""
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
    """Drops padding and puts the column pieces of each vector next to each other.

    Args:
      arrived: [b, owners, Q, w] pieces from the ranks that own them.
      positions: [owners, Q] position of each piece's vector in the layout stack, -1 for padding.

    Returns:
      [b, vectors * pieces, w] with the pieces of each vector adjacent, in the order of their owners; and the positions
      of the vectors, ascending.
    """
    flat = positions.reshape(-1)
    present = np.flatnonzero(flat >= 0)
    index = present[np.argsort(flat[present], kind="stable")]
    vectors = arrived.reshape(len(arrived), len(flat), arrived.shape[-1])
    return take_vectors(vectors, index), sorted(set(flat[present].tolist()))

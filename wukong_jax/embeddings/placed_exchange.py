"""Provides the base class of exchanges over placed tables, which reads and updates rows on the ranks that hold them.

Subclasses decide how ids reach the rows and vectors the batch: `flat_exchange`, and `dmt.tower_exchange`.
"""

import abc
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from wukong_jax.data.blocks.batch import BagShare
from wukong_jax.embeddings.exchange import BY_RANK, WHOLE, Exchange, Routed, StoredPiece
from wukong_jax.embeddings.flat_bags import BagRows, join_slots
from wukong_jax.embeddings.layout import EmbeddingLayout
from wukong_jax.embeddings.placed_tables import export_placed_stack, import_placed_stack, init_placed_stack
from wukong_jax.embeddings.placement import PlacedStack, Placement, Strategy
from wukong_jax.embeddings.row_gather import gather_bags, gather_rows
from wukong_jax.embeddings.row_optimizers import RowMean, mean_over_row
from wukong_jax.embeddings.sparse_update import RowStep, update_stack
from wukong_jax.embeddings.stack_lookups import RoutedIds, StackLookups
from wukong_jax.embeddings.tables import LogicalTables, Tables, check_same_tables
from wukong_jax.sharding.mesh import CHIP, HOST, MESH_AXES, compute_rank

ExchangeDtype = Literal["float32", "bfloat16"]
Rows = dict[str, Any]  # [ranks * R, L, w] float32, or BagRows
PlacedIds = dict[str, RoutedIds]


@dataclasses.dataclass(frozen=True)
class PlacedExchangeOptions:
    """`config.exchange.options` of exchanges over placed tables."""

    placement: Literal["auto", "replicated", "table_wise", "column_wise", "row_wise"] = "auto"  # of all tables
    tables: Mapping[str, Strategy] = dataclasses.field(default_factory=dict)  # placements of single tables
    dtype: ExchangeDtype = "float32"  # of vectors and gradients sent between devices, except for replicated tables
    memory_gib: float | None = None  # memory per chip for tables and their optimizer arrays; None: no limit


class PlacedExchange(Exchange):
    """Reads and updates rows on the ranks that hold them; see `Exchange` for the interface.

    A rank receives the ids of `R` batch rows, in an order that the subclass chooses and reverts in `collect`.
    """

    def __init__(self, layout: EmbeddingLayout, mesh: Mesh, placement: Placement, dtype: ExchangeDtype) -> None:
        """Computes the lookups of every rank.

        Args:
          layout: layout of the tables.
          mesh: mesh with axes ("host", "chip"); the batch is sharded over both.
          placement: placement of all tables of the layout.
          dtype: dtype in which embeddings and their gradients are sent.
        """
        super().__init__(layout, mesh)
        self.placement, self.dtype = placement, jnp.dtype(dtype)
        self.hosts, self.chips = mesh.shape[HOST], mesh.shape[CHIP]
        self.lookups = {stack.name: StackLookups(layout, stack, mesh.size) for stack in placement.stacks}

    @abc.abstractmethod
    def route_local(self, ids: jax.Array, share: BagShare | None = None) -> PlacedIds:
        """Sends ids to the ranks that hold their rows; shard-local.

        Args:
          ids: [B / ranks, S] int32, -1 = no id.
          share: see `route_ids`.

        Returns:
          The [R, L] rows to read, by name of the placed stack.
        """

    @property
    def table_sharding(self) -> dict[str, NamedSharding]:
        """Sharding of the arrays of each stack, by stack name."""
        return {name: NamedSharding(self.mesh, BY_RANK) for name in self.lookups}

    def init_tables(self, key: jax.Array) -> Tables:
        """Creates the tables of a new run; each rank creates its part."""
        return {
            stack.name: init_placed_stack(self.layout.stacks[stack.source], stack, self.mesh, key, self.merge)
            for stack in self.placement.stacks
        }

    def export_tables(self, tables: Tables) -> LogicalTables:
        """Copies the tables to the host, one entry per table regardless of placement."""
        logical: LogicalTables = {}
        for stack in self.placement.stacks:
            logical |= export_placed_stack(self.layout.stacks[stack.source], stack, tables[stack.name])
        return logical

    def import_tables(self, logical: Mapping[str, Mapping[str, np.ndarray]]) -> Tables:
        """Creates tables from the result of `export_tables` under any placement.

        Raises:
          UserError: a table or array of the placement is missing, or has another shape or dtype.
        """
        check_same_tables(self.layout, logical)
        return {
            stack.name: import_placed_stack(self.layout.stacks[stack.source], stack, self.mesh, logical, self.merge)
            for stack in self.placement.stacks
        }

    def list_pieces(self) -> dict[str, list[StoredPiece]]:
        """Lists the pieces of all ranks; see `Exchange`."""
        return {
            stack.name: [
                StoredPiece(
                    p.table, p.rank * stack.rows + p.first_row, p.row_start, p.row_count, p.column_start, stack.width
                )
                for p in stack.pieces
            ]
            for stack in self.placement.stacks
        }

    def measure_bag_fill(self, lengths: Mapping[str, np.ndarray]) -> float | None:
        """Measures how full the slots of bags are; see `Exchange`. A rank sees the ids of the whole batch."""
        totals = {name: int(own.sum()) for name, own in lengths.items()}
        rows = max((len(own) for own in lengths.values()), default=0)
        return max((lookups.measure_fill(totals, rows) for lookups in self.lookups.values()), default=0.0)

    def route_ids(self, ids: jax.Array, share: BagShare | None = None) -> Routed:
        """Sends ids to the ranks that hold their rows; see `Exchange`."""
        with jax.named_scope("route_ids"):
            return self.map_shards(functools.partial(self.route_local, share=share), BY_RANK)(ids)

    def keep_by_row(self, routed: Routed) -> Routed:
        """Drops the bags laid flat, which are summed already; see `Exchange`."""
        return {name: own._replace(flat=None) for name, own in routed.items()}

    def gather(self, tables: Tables, routed: Routed) -> Rows:
        """Reads the rows on the ranks that hold them, and sums bags that are laid flat; see `Exchange`."""
        stored = {name: tables[name].rows for name in routed}
        return self.map_shards(self._gather_local, (BY_RANK, BY_RANK))(stored, self._drop_counts(routed))

    def _gather_local(self, tables: Mapping[str, jax.Array], routed: PlacedIds) -> Rows:
        gathered: dict[str, jax.Array | BagRows] = {}
        for name, ids in routed.items():
            lengths = self.lookups[name].bag_lengths
            if ids.flat is None:
                gathered[name] = gather_rows(tables[name], ids.row_ids)
            else:
                gathered[name] = gather_bags(tables[name], ids.row_ids, ids.flat, len(lengths), max(lengths))
        return gathered

    def _drop_counts(self, routed: PlacedIds) -> PlacedIds:
        return {name: ids._replace(inverse_counts={}) for name, ids in routed.items()}

    def apply_row_gradients(
        self, tables: Tables, routed: Routed, rows: Rows, row_gradients: Rows, row_step: RowStep
    ) -> Tables:
        """Applies the row optimizers on the ranks that hold the rows; see `Exchange`.

        Stochastic rounding uses a different key on each rank, so that bfloat16 tables under different placements are
        equal on average but not bit for bit.
        """

        def update_local(tables: Tables, routed: PlacedIds, rows: Rows, gradients: Rows, row_step: RowStep) -> Tables:
            row_step = row_step.fold_key(compute_rank(self.mesh))
            updated = {}
            for index, stack in enumerate(self.placement.stacks):
                name, own_step = stack.name, row_step.fold_key(index)
                row_ids, flat = routed[name].row_ids, routed[name].flat
                if flat is None:
                    touched = row_ids, gradients[name], rows[name]
                else:
                    touched = *join_slots(row_ids, flat, gradients[name]), None
                updated[name] = update_stack(stack, tables[name], *touched, own_step, self._row_mean(stack))
            return updated

        names = self.lookups
        arguments = (
            {name: tables[name] for name in names},
            self._drop_counts({name: routed[name] for name in names}),
            {name: rows[name] for name in names},
            {name: row_gradients[name] for name in names},
        )
        with jax.named_scope("row_optimizer"):
            update = self.map_shards(update_local, (BY_RANK,) * 4 + (WHOLE,))
            return update(*arguments, row_step.fold_key(row_step.step))

    def _row_mean(self, stack: PlacedStack) -> RowMean:
        """Returns the mean over a whole row; column pieces are summed over their ranks, which merged the same rows."""
        if stack.strategy != "column_wise" or stack.shards == 1:
            return mean_over_row
        axes, groups = _block_axes(stack.shards, self.hosts, self.chips)

        def mean_over_block(values: jax.Array) -> jax.Array:
            total = jax.lax.psum(values.sum(axis=1), axes, axis_index_groups=groups)
            return total / stack.table_width

        return mean_over_block


def _block_axes(shards: int, hosts: int, chips: int) -> tuple[Any, list[list[int]] | None]:
    """Returns mesh axes, and groups along them, that form the aligned blocks of `shards` ranks."""
    if shards == hosts * chips:
        return MESH_AXES, None
    if shards == chips:
        return CHIP, None
    ranks = range(hosts * chips)
    return MESH_AXES, [list(ranks[start : start + shards]) for start in range(0, len(ranks), shards)]


def concatenate_flat(parts: Mapping[str, jax.Array]) -> jax.Array:
    """Concatenates arrays [n, b, Q, w] of several stacks to one message [n, b, numbers], to send in one collective."""
    return jnp.concatenate([part.reshape(*part.shape[:2], -1) for part in parts.values()], axis=2)


def split_flat(message: jax.Array, shapes: Mapping[str, tuple[int, int]]) -> dict[str, jax.Array]:
    """Inverts `concatenate_flat`: splits [n, b, numbers] into arrays [n, b, Q, w] with the given (Q, w)."""
    parts = jax.lax.split(message, [vectors * width for vectors, width in shapes.values()], axis=2)
    return {
        name: part.reshape(*part.shape[:2], *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


exchange_over = functools.partial(jax.lax.all_to_all, split_axis=0, concat_axis=0, tiled=True)

"""Defines the exchange, which moves ids to the tables, embedding vectors to the model, and gradients back to the rows.

`Exchange` is the interface. Implementations decide where tables are placed and what is sent over which link. The one in
this module, `ReplicatedExchange`, keeps all tables on every device.
"""

import abc
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from wukong_jax.data.blocks.batch import BagShare, Batch
from wukong_jax.embeddings.flat_bags import BagRows, FlatBags, join_ranks, join_slots
from wukong_jax.embeddings.layout import MAX_STACK_ROWS, EmbeddingLayout
from wukong_jax.embeddings.pooling import pool_fields
from wukong_jax.embeddings.row_gather import compute_row_ids
from wukong_jax.embeddings.sparse_update import RowStep, update_stack
from wukong_jax.embeddings.tables import LogicalTables, Tables, choose_merge, export_tables, import_tables, init_tables
from wukong_jax.embeddings.whole_stacks import find_bags, gather_stacks, route_stacks
from wukong_jax.errors import UserError
from wukong_jax.sharding.axis_rules import AxisRules
from wukong_jax.sharding.mesh import MESH_AXES, check_mesh_axes
from wukong_jax.sharding.per_device import run_on_devices

Routed = Any  # a pytree specific to the exchange
Rows = Any  # a pytree of float32 arrays, with respect to which the loss is differentiated
BoundNetwork = Any  # a bound Flax module, `training.network.Network` with its weights
BY_RANK = PartitionSpec(MESH_AXES)
WHOLE = PartitionSpec()


class StoredPiece(NamedTuple):
    """A rectangle of a table and its place in the arrays of a stack, for checkpoints that store stacks."""

    table: str
    first_row: int  # in the arrays of the stack
    row_start: int  # in the table
    row_count: int
    column_start: int
    columns: int


class Exchange(abc.ABC):
    """Moves ids, rows and row gradients between the batch's devices and the tables' devices.

    Attributes:
      layout: layout of the tables.
      mesh: mesh with axes ("host", "chip"); the batch is sharded over both.
      merge: method of merging equal rows on the mesh's devices.
    """

    def __init__(self, layout: EmbeddingLayout, mesh: Mesh) -> None:
        """Stores the layout and the mesh.

        Args:
          layout: layout of the tables.
          mesh: mesh with axes ("host", "chip"); the batch is sharded over both.

        Raises:
          ValueError: the mesh has other axes.
        """
        check_mesh_axes(mesh)
        self.layout, self.mesh = layout, mesh
        self.merge = choose_merge(mesh.devices.flat[0].platform)

    @property
    def parameter_rules(self) -> AxisRules:
        """Sharding rules of dense weights that are not replicated but kept with some tables; none by default."""
        return ()

    @property
    @abc.abstractmethod
    def table_sharding(self) -> dict[str, NamedSharding]:
        """Sharding of the arrays of each stack, by stack name."""

    @abc.abstractmethod
    def describe(self) -> str:
        """Describes, for the user, where the tables are placed and why."""

    @abc.abstractmethod
    def init_tables(self, key: jax.Array) -> Tables:
        """Creates the tables of a new run on the mesh; a table's rows depend only on the key and the table's name."""

    @abc.abstractmethod
    def export_tables(self, tables: Tables) -> LogicalTables:
        """Copies the tables to the host, one entry per table regardless of stacks and placement."""

    @abc.abstractmethod
    def import_tables(self, logical: Mapping[str, Mapping[str, np.ndarray]]) -> Tables:
        """Creates tables from the result of `export_tables`, whatever stacks and placement they were saved with.

        Raises:
          UserError: a table or array is missing, or has another shape or dtype.
        """

    def list_pieces(self) -> dict[str, list[StoredPiece]]:
        """Lists by stack name where the arrays of `init_tables` hold which rows of which table, without repetition.

        Several processes save the arrays where they lie, and this list with them.

        Raises:
          UserError: the exchange does not tell.
        """
        raise UserError(
            f"config.exchange.factory: {type(self).__name__} has no list_pieces, so that it cannot be saved "
            "by several processes; train in one process, or add the method"
        )

    def measure_bag_fill(self, lengths: Mapping[str, np.ndarray]) -> float | None:
        """Measures on the host how full the slots of bags are, on the device and in the stack where they are fullest.

        Args:
          lengths: by bag column, [B] int, position of the last id in each row's bag plus 1.

        Returns:
          The used share of the slots that are laid flat in places, or None if this exchange only takes padded bags.
        """
        del lengths
        return None

    @abc.abstractmethod
    def route_ids(self, ids: jax.Array, share: BagShare | None = None) -> Routed:
        """Sends ids to the devices that hold their rows; not differentiable.

        Args:
          ids: [B, S] int32, -1 = no id.
          share: share of the bags' slots in which they are laid flat, not less than `measure_bag_fill`; None: they stay
            padded. Only given if `measure_bag_fill` returns a number.

        Returns:
          The batch's routing, as input of `gather`, `collect` and `apply_row_gradients`.
        """

    def keep_by_row(self, routed: Routed) -> Routed:
        """Returns what `collect` needs of the routing, which must have entries per row of the batch, to divide it."""
        return routed

    @abc.abstractmethod
    def gather(self, tables: Tables, routed: Routed) -> Rows:
        """Reads the rows on the devices that hold them.

        Args:
          tables: the tables.
          routed: result of `route_ids`.

        Returns:
          Float32 arrays of rows, with respect to which the loss is differentiated.
        """

    @abc.abstractmethod
    def collect(self, rows: Rows, routed: Routed) -> dict[str, jax.Array]:
        """Sends rows to the devices of the batch; differentiable.

        Args:
          rows: result of `gather`.
          routed: result of `route_ids`.

        Returns:
          [B, vectors of the stack, w] float32 by stack name: pooled bags, and zeros for missing ids.
        """

    def run_network(self, network: BoundNetwork, rows: Rows, routed: Routed, batch: Batch, *, train: bool) -> Any:
        """Runs the network on the rows; differentiable.

        By default, each device runs the network on its part of the batch. Exchanges that compute a part of the network
        elsewhere override this method, and call the network by `sharding.per_device.run_on_devices`.

        Args:
          network: network bound to its weights, called with the result of `collect` and the batch.
          rows: result of `gather`.
          routed: result of `route_ids`.
          batch: the batch.
          train: whether to apply dropout.

        Returns:
          The model's outputs.
        """

        def call(network: BoundNetwork, values: dict[str, jax.Array], batch: Batch) -> Any:
            return network(values, batch, train=train)

        arguments = (self.collect(rows, routed), batch)
        return run_on_devices(network, call, arguments, (BY_RANK, BY_RANK), BY_RANK)

    @abc.abstractmethod
    def apply_row_gradients(
        self, tables: Tables, routed: Routed, rows: Rows, row_gradients: Rows, row_step: RowStep
    ) -> Tables:
        """Applies the row optimizers; each touched row is written once, in place if buffers are donated.

        Args:
          tables: the tables.
          routed: result of `route_ids`.
          rows: result of `gather`, before the step.
          row_gradients: gradients of the loss with respect to `rows`.
          row_step: the step; step and stack are folded into its key here.

        Returns:
          The tables after the step.
        """

    def map_shards(self, function: Callable[..., Any], in_specs: Any, out_specs: Any = BY_RANK) -> Callable[..., Any]:
        """Applies `shard_map` over the mesh."""
        return jax.shard_map(function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


class ReplicatedIds(NamedTuple):
    """Ids for replicated tables."""

    row_ids: dict[str, jax.Array]  # [B, S_stack] int32 in [0, V] by stack name; of stacks in `flat` without the bags
    ids: jax.Array  # [B, S] int32, the original ids, which mean pooling counts
    flat: dict[str, FlatBags]  # bags of stacks that have any, if they are laid flat; of each device side by side


class ReplicatedExchange(Exchange):
    """Keeps all tables on every device.

    Rows are read locally. For the update, ids and row gradients are gathered from all devices in the batch's order, and
    every device makes the same update, so the result equals that of one device. Traffic grows with the batch, not with
    the tables.
    """

    def __init__(self, layout: EmbeddingLayout, mesh: Mesh) -> None:
        """Checks that one device can hold the tables.

        Args:
          layout: see `Exchange`.
          mesh: see `Exchange`.

        Raises:
          ValueError: the mesh has other axes.
          UserError: a stack has more rows than int32 row ids can address.
        """
        super().__init__(layout, mesh)
        for stack in layout.stacks:
            if stack.rows > MAX_STACK_ROWS:
                raise UserError(
                    f"rows = {stack.rows} of the tables of width {stack.width} ({', '.join(stack.tables)}): at most "
                    f"{MAX_STACK_ROWS} on one device; hash to fewer rows, or spread them over more devices"
                )

    @property
    def table_sharding(self) -> dict[str, NamedSharding]:
        """Sharding by stack name: replicated on every device."""
        return {stack.name: NamedSharding(self.mesh, WHOLE) for stack in self.layout.stacks}

    def describe(self) -> str:
        """Describes where the tables are placed."""
        return f"each of {self.mesh.size} devices holds all tables"

    def init_tables(self, key: jax.Array) -> Tables:
        """Creates the tables of a new run; see `Exchange`."""
        return init_tables(self.layout, key, self.merge)

    def export_tables(self, tables: Tables) -> LogicalTables:
        """Copies the tables to the host; see `Exchange`."""
        return export_tables(self.layout, tables)

    def import_tables(self, logical: Mapping[str, Mapping[str, np.ndarray]]) -> Tables:
        """Creates tables from the result of `export_tables`; see `Exchange`."""
        return import_tables(self.layout, logical, self.merge)

    def list_pieces(self) -> dict[str, list[StoredPiece]]:
        """Lists the rows of every table; see `Exchange`."""
        return {
            stack.name: [
                StoredPiece(table, first, 0, count, 0, stack.width)
                for table, first, count in zip(stack.tables, stack.first_rows, stack.table_rows, strict=True)
            ]
            for stack in self.layout.stacks
        }

    def measure_bag_fill(self, lengths: Mapping[str, np.ndarray]) -> float | None:
        """Measures how full the slots of bags are; see `Exchange`."""
        fills = [0.0]
        for index in range(len(self.layout.stacks)):
            if bags := find_bags(self.layout, index):
                used = sum(lengths[field.column].reshape(self.mesh.size, -1).sum(axis=1) for field in bags)
                slots = len(lengths[bags[0].column]) // self.mesh.size * sum(field.length for field in bags)
                fills.append(float(np.max(used)) / slots)
        return max(fills)

    def route_ids(self, ids: jax.Array, share: BagShare | None = None) -> ReplicatedIds:
        """Converts ids to row ids of each stack; see `Exchange`."""
        if share is None:
            stacks = enumerate(self.layout.stacks)
            return ReplicatedIds({stack.name: compute_row_ids(self.layout, i, ids) for i, stack in stacks}, ids, {})
        route = functools.partial(route_stacks, self.layout, share)
        row_ids, flat = route(ids) if self.mesh.size == 1 else self.map_shards(route, BY_RANK)(ids)
        return ReplicatedIds(row_ids, ids, flat)

    def keep_by_row(self, routed: ReplicatedIds) -> ReplicatedIds:
        """Drops the bags laid flat, which are summed already; see `Exchange`."""
        return routed._replace(flat={})

    def gather(self, tables: Tables, routed: ReplicatedIds) -> dict[str, jax.Array | BagRows]:
        """Reads each device's rows from its copy of the tables, and sums bags that are laid flat; see `Exchange`."""
        stored = {name: tables[name].rows for name in routed.row_ids}
        read: Callable[..., Any] = functools.partial(gather_stacks, self.layout)
        if self.mesh.size > 1:
            read = self.map_shards(read, (WHOLE, BY_RANK, BY_RANK))
        return read(stored, routed.row_ids, routed.flat)

    def collect(self, rows: dict[str, jax.Array | BagRows], routed: ReplicatedIds) -> dict[str, jax.Array]:
        """Pools the rows, which are already on the batch's devices; see `Exchange`."""
        return {
            stack.name: pool_fields(self.layout.fields_of_stack(index), rows[stack.name], routed.ids)
            for index, stack in enumerate(self.layout.stacks)
        }

    def apply_row_gradients(
        self,
        tables: Tables,
        routed: ReplicatedIds,
        rows: Mapping[str, jax.Array | BagRows],
        row_gradients: Mapping[str, jax.Array | BagRows],
        row_step: RowStep,
    ) -> Tables:
        """Makes the same update on every device; see `Exchange`."""
        names = [stack.name for stack in self.layout.stacks]
        if not names:
            return {}
        row_step = row_step.fold_key(row_step.step)
        tables, row_gradients = {name: tables[name] for name in names}, {name: row_gradients[name] for name in names}
        if self.mesh.size == 1:
            return self._update(tables, routed.row_ids, routed.flat, row_gradients, rows, row_step)

        def update_replica(
            tables: Tables, row_ids: dict[str, jax.Array], flat: Any, gradients: dict[str, Any], row_step: RowStep
        ) -> Tables:
            # Read the rows again from the local copy, which is cheaper than sending them over a link.
            row_ids, gradients = jax.lax.all_gather((row_ids, gradients), MESH_AXES, axis=0, tiled=True)
            counts = {name: gradients[name].sums.size // gradients[name].sums.shape[-1] for name in flat}
            flat = {name: jax.lax.all_gather(own, MESH_AXES, axis=0) for name, own in flat.items()}
            flat = {name: join_ranks(own, counts[name] // self.mesh.size) for name, own in flat.items()}
            return self._update(tables, row_ids, flat, gradients, None, row_step)

        specs = (WHOLE, BY_RANK, BY_RANK, BY_RANK, WHOLE)
        update = self.map_shards(update_replica, specs, WHOLE)
        return update(tables, routed.row_ids, routed.flat, row_gradients, row_step)

    def _update(
        self,
        tables: Tables,
        row_ids: Mapping[str, jax.Array],
        flat: Mapping[str, FlatBags],
        gradients: Mapping[str, Any],
        rows: Mapping[str, Any] | None,
        row_step: RowStep,
    ) -> Tables:
        updated = {}
        for index, stack in enumerate(self.layout.stacks):
            name, own_step = stack.name, row_step.fold_key(index)
            touched = row_ids[name], gradients[name], None if rows is None else rows[name]
            if name in flat:
                touched = *join_slots(row_ids[name], flat[name], gradients[name]), None
            updated[name] = update_stack(stack, tables[name], *touched, own_step)
        return updated

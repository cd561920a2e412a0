"""The exchange: how a batch's ids reach the rows, their values the model, and gradients the rows again.

`Exchange` is the interface. Where the tables lie and what crosses which link is up to its implementations. Here is the
one for tables that every device holds whole.
"""

import abc
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from wukong_jax.data.blocks.batch import Batch
from wukong_jax.embeddings.layout import MAX_STACK_ROWS, EmbeddingLayout
from wukong_jax.embeddings.pooling import pool_fields
from wukong_jax.embeddings.row_gather import compute_row_ids, gather_stacks
from wukong_jax.embeddings.sparse_update import RowStep, update_stack
from wukong_jax.embeddings.tables import LogicalTables, Tables, choose_merge, export_tables, import_tables, init_tables
from wukong_jax.errors import UserError
from wukong_jax.sharding.axis_rules import AxisRules
from wukong_jax.sharding.mesh import MESH_AXES, check_mesh_axes

Routed = Any  # a pytree that an exchange understands
Rows = Any  # a pytree of float32 arrays, what the loss is differentiated against
BoundNetwork = Any  # `training.network.Network` bound to its weights, in Flax's words
BY_RANK = PartitionSpec(MESH_AXES)
WHOLE = PartitionSpec()


class Exchange(abc.ABC):
    """Moves ids, rows and row gradients between the batch's devices and the tables' devices.

    Attributes:
      layout: the tables that it serves.
      mesh: axes ("host", "chip"), the batch sharded over both.
      merge: how equal rows are merged on the mesh's devices.
    """

    def __init__(self, layout: EmbeddingLayout, mesh: Mesh) -> None:
        """Remembers the layout and the mesh.

        Args:
          layout: the layout of the tables.
          mesh: axes ("host", "chip"), the batch sharded over both.

        Raises:
          ValueError: the mesh has other axes.
        """
        check_mesh_axes(mesh)
        self.layout, self.mesh = layout, mesh
        self.merge = choose_merge(mesh.devices.flat[0].platform)

    @property
    def parameter_rules(self) -> AxisRules:
        """Dense weights that live beside some tables and not on every device; none by default."""
        return ()

    @property
    @abc.abstractmethod
    def table_sharding(self) -> dict[str, NamedSharding]:
        """Stack name to how its arrays lie on the mesh."""

    @abc.abstractmethod
    def describe(self) -> str:
        """Where the tables lie and why, as text for people."""

    @abc.abstractmethod
    def init_tables(self, key: jax.Array) -> Tables:
        """Makes the tables of a new run, on the mesh; a table's rows depend on the key and its name alone."""

    @abc.abstractmethod
    def export_tables(self, tables: Tables) -> LogicalTables:
        """Copies the tables to the host, one entry per table whatever its stack and placement."""

    @abc.abstractmethod
    def import_tables(self, logical: Mapping[str, Mapping[str, np.ndarray]]) -> Tables:
        """The inverse of `export_tables`, from tables saved under any layout of stacks and any placement.

        Raises:
          UserError: a table or array is missing, or of another shape or dtype.
        """

    @abc.abstractmethod
    def route_ids(self, ids: jax.Array) -> Routed:
        """Brings ids to the devices that hold their rows; integers, no gradient.

        Args:
          ids: [B, S] int32, -1 = no id.

        Returns:
          What `gather`, `collect` and `apply_row_gradients` need to know of this batch.
        """

    @abc.abstractmethod
    def gather(self, tables: Tables, routed: Routed) -> Rows:
        """Reads the rows, where they lie.

        Args:
          tables: the tables.
          routed: from `route_ids`.

        Returns:
          Float32 arrays of rows, the leaves that the loss is differentiated against.
        """

    @abc.abstractmethod
    def collect(self, rows: Rows, routed: Routed) -> dict[str, jax.Array]:
        """Brings rows to the devices of the batch; differentiable.

        Args:
          rows: from `gather`.
          routed: from `route_ids`.

        Returns:
          Stack name to [B, vectors of the stack, w] float32: bags pooled, zeros where there is no id.
        """

    def run_network(self, network: BoundNetwork, rows: Rows, routed: Routed, batch: Batch, *, train: bool) -> Any:
        """Runs the network over the rows; differentiable.

        By default the network runs where the batch is. An exchange that computes a part of it elsewhere overrides this.

        Args:
          network: bound to its weights; it is called with what `collect` returns and the batch.
          rows: from `gather`.
          routed: from `route_ids`.
          batch: the batch.
          train: whether dropout acts.

        Returns:
          The model's outputs.
        """
        return network(self.collect(rows, routed), batch, train=train)

    @abc.abstractmethod
    def apply_row_gradients(
        self, tables: Tables, routed: Routed, rows: Rows, row_gradients: Rows, row_step: RowStep
    ) -> Tables:
        """Takes the row optimizers' step; each touched row changes once, in place where buffers are donated.

        Args:
          tables: the tables.
          routed: from `route_ids`.
          rows: from `gather`, before the step.
          row_gradients: the loss's gradient with respect to `rows`.
          row_step: the step; its key is folded here by step and stack.

        Returns:
          The tables after the step.
        """

    def map_shards(self, function: Callable[..., Any], in_specs: Any, out_specs: Any = BY_RANK) -> Callable[..., Any]:
        """`shard_map` over the mesh."""
        return jax.shard_map(function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


class ReplicatedIds(NamedTuple):
    """Ids where every device holds all tables."""

    row_ids: dict[str, jax.Array]  # stack name to [B, S_stack] int32 in [0, V]
    ids: jax.Array  # [B, S] int32, as they came: averages count them


class ReplicatedExchange(Exchange):
    """Every device holds all tables and its own part of the batch.

    Rows are read locally. For the update, ids and row gradients are gathered from all devices in the batch's
    order, after which every device makes the same update, so the result is that of one device; what
    crosses the links follows the batch, not the tables.
    """

    def __init__(self, layout: EmbeddingLayout, mesh: Mesh) -> None:
        """Checks that one device can hold the tables.

        Args:
          layout: see `Exchange`.
          mesh: see `Exchange`.

        Raises:
          ValueError: the mesh has other axes.
          UserError: more rows in one stack than an int32 counts.
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
        """Every device holds everything."""
        return {stack.name: NamedSharding(self.mesh, WHOLE) for stack in self.layout.stacks}

    def describe(self) -> str:
        """Where the tables lie."""
        return f"every one of {self.mesh.size} devices holds all tables"

    def init_tables(self, key: jax.Array) -> Tables:
        """Makes the tables of a new run; see `Exchange`."""
        return init_tables(self.layout, key, self.merge)

    def export_tables(self, tables: Tables) -> LogicalTables:
        """Copies the tables to the host; see `Exchange`."""
        return export_tables(self.layout, tables)

    def import_tables(self, logical: Mapping[str, Mapping[str, np.ndarray]]) -> Tables:
        """The inverse of `export_tables`; see `Exchange`."""
        return import_tables(self.layout, logical, self.merge)

    def route_ids(self, ids: jax.Array) -> ReplicatedIds:
        """Turns ids into row ids of each stack; see `Exchange`."""
        stacks = enumerate(self.layout.stacks)
        return ReplicatedIds({stack.name: compute_row_ids(self.layout, i, ids) for i, stack in stacks}, ids)

    def gather(self, tables: Tables, routed: ReplicatedIds) -> dict[str, jax.Array]:
        """Reads each device's rows from its own tables; see `Exchange`."""
        stored = {name: tables[name].rows for name in routed.row_ids}
        if self.mesh.size == 1:
            return gather_stacks(stored, routed.row_ids)
        return self.map_shards(gather_stacks, (WHOLE, BY_RANK))(stored, routed.row_ids)

    def collect(self, rows: dict[str, jax.Array], routed: ReplicatedIds) -> dict[str, jax.Array]:
        """The rows are where the batch is already; pools them; see `Exchange`."""
        return {
            stack.name: pool_fields(self.layout.fields_of_stack(index), rows[stack.name], routed.ids)
            for index, stack in enumerate(self.layout.stacks)
        }

    def apply_row_gradients(
        self,
        tables: Tables,
        routed: ReplicatedIds,
        rows: Mapping[str, jax.Array],
        row_gradients: Mapping[str, jax.Array],
        row_step: RowStep,
    ) -> Tables:
        """Makes the same update on every device; see `Exchange`."""
        names = [stack.name for stack in self.layout.stacks]
        if not names:
            return {}
        row_step = row_step.fold_key(row_step.step)
        tables, row_gradients = {name: tables[name] for name in names}, {name: row_gradients[name] for name in names}
        if self.mesh.size == 1:
            return self._update(tables, routed.row_ids, row_gradients, rows, row_step)

        def update_replica(
            tables: Tables, row_ids: dict[str, jax.Array], gradients: dict[str, jax.Array], row_step: RowStep
        ) -> Tables:
            # Rows are read again from the local replica: cheaper than moving them over a link.
            row_ids, gradients = jax.lax.all_gather((row_ids, gradients), MESH_AXES, axis=0, tiled=True)
            return self._update(tables, row_ids, gradients, None, row_step)

        specs = (WHOLE, BY_RANK, BY_RANK, WHOLE)
        return self.map_shards(update_replica, specs, WHOLE)(tables, routed.row_ids, row_gradients, row_step)

    def _update(
        self,
        tables: Tables,
        row_ids: Mapping[str, jax.Array],
        gradients: Mapping[str, jax.Array],
        rows: Mapping[str, jax.Array] | None,
        row_step: RowStep,
    ) -> Tables:
        updated = {}
        for index, stack in enumerate(self.layout.stacks):
            name, own_step = stack.name, row_step.fold_key(index)
            own_rows = None if rows is None else rows[name]
            updated[name] = update_stack(stack, tables[name], row_ids[name], gradients[name], own_rows, own_step)
        return updated

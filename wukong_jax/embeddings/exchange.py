"""The exchange: how a batch's ids reach the rows, their values the model, and gradients the rows again.

`Exchange` is the interface; where the tables lie and what crosses which link is an implementation's own
affair. Here is the one for tables that every device holds whole.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from wukong_jax.embeddings.layout import MAX_STACK_ROWS, EmbeddingLayout
from wukong_jax.embeddings.pooling import pool_fields
from wukong_jax.embeddings.row_gather import compute_row_ids, gather_rows
from wukong_jax.embeddings.sparse_update import update_stack
from wukong_jax.embeddings.tables import LogicalTables, Tables, choose_merge, export_tables, import_tables, init_tables
from wukong_jax.errors import UserError
from wukong_jax.sharding.axis_rules import AxisRules
from wukong_jax.sharding.mesh import MESH_AXES, check_mesh_axes

Routed = Any  # a pytree that an exchange understands
Rows = Any  # a pytree of float32 arrays, what the loss is differentiated against
Compress = Callable[[jax.Array], jax.Array]  # [T, B, F_max, D] to [T, B, P_max, D_out]


class TowerTokens(NamedTuple):
    """What tower modules made of the embeddings, back at the batch's devices."""

    tokens: jax.Array  # [B, T, P_max, D_out] float32


class Exchange(Protocol):
    """Moves ids, rows and row gradients between the batch's devices and the tables' devices."""

    @property
    def layout(self) -> EmbeddingLayout:
        """The tables that it serves."""
        ...

    @property
    def table_sharding(self) -> dict[str, NamedSharding]:
        """Stack name to how its arrays lie on the mesh."""
        ...

    @property
    def parameter_rules(self) -> AxisRules:
        """Dense weights that live beside some tables and not on every device."""
        ...

    def describe(self) -> str:
        """Where the tables lie and why, as text for people."""
        ...

    def init_tables(self, key: jax.Array) -> Tables:
        """Makes the tables of a new run, on the mesh; a table's rows depend on the key and its name alone."""
        ...

    def export_tables(self, tables: Tables) -> LogicalTables:
        """Copies the tables to the host, one entry per table whatever its stack and placement."""
        ...

    def import_tables(self, logical: Mapping[str, Mapping[str, np.ndarray]]) -> Tables:
        """The inverse of `export_tables`, from tables saved under any layout of stacks and any placement.

        Raises:
          UserError: a table or array is missing, or of another shape or dtype.
        """
        ...

    def route_ids(self, ids: jax.Array) -> Routed:
        """Brings ids to the devices that hold their rows; integers, no gradient.

        Args:
          ids: [B, S] int32, -1 = no id.

        Returns:
          What `gather`, `collect` and `apply_row_gradients` need to know of this batch.
        """
        ...

    def gather(self, tables: Tables, routed: Routed) -> Rows:
        """Reads the rows, where they lie.

        Args:
          tables: the tables.
          routed: from `route_ids`.

        Returns:
          Float32 arrays of rows, the leaves that the loss is differentiated against.
        """
        ...

    def collect(self, rows: Rows, routed: Routed, compress: Compress) -> "dict[str, jax.Array] | TowerTokens":
        """Brings rows to the devices of the batch; differentiable.

        Args:
          rows: from `gather`.
          routed: from `route_ids`.
          compress: the model's tower modules, which an exchange with towers applies on the towers' devices; others
            leave them to the model.

        Returns:
          The tokens that towers made, or stack name to [B, vectors of the stack, w] float32: bags pooled, zeros where
          there is no id.
        """
        ...

    def apply_row_gradients(
        self,
        tables: Tables,
        routed: Routed,
        rows: Rows,
        row_gradients: Rows,
        step: jax.Array,
        learning_rate_scale: jax.Array,
        key: jax.Array,
    ) -> Tables:
        """Takes the row optimizers' step; each touched row changes once, in place where buffers are donated.

        Args:
          tables: the tables.
          routed: from `route_ids`.
          rows: from `gather`, before the step.
          row_gradients: the loss's gradient with respect to `rows`.
          step: int32 scalar, 0 for the first step of a run.
          learning_rate_scale: float32 scalar, multiplies every row optimizer's learning rate.
          key: a random key for this purpose; folded here by step and stack.

        Returns:
          The tables after the step.
        """
        ...


class ReplicatedIds(NamedTuple):
    """Ids where every device holds all tables."""

    row_ids: dict[str, jax.Array]  # stack name to [B, S_stack] int32 in [0, V]
    ids: jax.Array  # [B, S] int32, as they came: averages count them


class ReplicatedExchange:
    """Every device holds all tables and its own part of the batch.

    Rows are read locally. For the update, ids and row gradients are gathered from all devices in the batch's
    order, after which every device makes the same update, so the result is that of one device; what
    crosses the links follows the batch, not the tables.
    """

    def __init__(self, layout: EmbeddingLayout, mesh: Mesh) -> None:
        """Remembers the layout and the mesh.

        Args:
          layout: the layout of the tables.
          mesh: axes ("host", "chip"), the batch sharded over both.

        Raises:
          ValueError: the mesh has other axes.
          UserError: more rows in one stack than an int32 counts.
        """
        check_mesh_axes(mesh)
        for stack in layout.stacks:
            if stack.rows > MAX_STACK_ROWS:
                raise UserError(
                    f"rows = {stack.rows} of the tables of width {stack.width} ({', '.join(stack.tables)}): at most "
                    f"{MAX_STACK_ROWS} on one device; hash to fewer rows, or spread them over more devices"
                )
        self._layout = layout
        self.mesh = mesh
        self._merge = choose_merge(mesh.devices.flat[0].platform)

    @property
    def layout(self) -> EmbeddingLayout:
        """The tables that it serves."""
        return self._layout

    @property
    def parameter_rules(self) -> AxisRules:
        """None: dense weights are replicated too."""
        return ()

    @property
    def table_sharding(self) -> dict[str, NamedSharding]:
        """Every device holds everything."""
        return {stack.name: NamedSharding(self.mesh, PartitionSpec()) for stack in self.layout.stacks}

    def describe(self) -> str:
        """Where the tables lie."""
        return f"every one of {self.mesh.size} devices holds all tables"

    def init_tables(self, key: jax.Array) -> Tables:
        """Makes the tables of a new run; see `Exchange`."""
        return init_tables(self.layout, key, self._merge)

    def export_tables(self, tables: Tables) -> LogicalTables:
        """Copies the tables to the host; see `Exchange`."""
        return export_tables(self.layout, tables)

    def import_tables(self, logical: Mapping[str, Mapping[str, np.ndarray]]) -> Tables:
        """The inverse of `export_tables`; see `Exchange`."""
        return import_tables(self.layout, logical, self._merge)

    def route_ids(self, ids: jax.Array) -> ReplicatedIds:
        """Turns ids into row ids of each stack; see `Exchange`."""
        stacks = enumerate(self.layout.stacks)
        return ReplicatedIds({stack.name: compute_row_ids(self.layout, i, ids) for i, stack in stacks}, ids)

    def gather(self, tables: Tables, routed: ReplicatedIds) -> dict[str, jax.Array]:
        """Reads each device's rows from its own tables; see `Exchange`."""
        row_ids = routed.row_ids
        stored = {name: tables[name].rows for name in row_ids}

        def gather_local(stored: dict[str, jax.Array], row_ids: dict[str, jax.Array]) -> dict[str, jax.Array]:
            return {name: gather_rows(stored[name], row_ids[name]) for name in row_ids}

        if self.mesh.size == 1:
            return gather_local(stored, row_ids)
        whole, by_batch = PartitionSpec(), PartitionSpec(MESH_AXES)
        return jax.shard_map(
            gather_local, mesh=self.mesh, in_specs=(whole, by_batch), out_specs=by_batch, check_vma=False
        )(stored, row_ids)

    def collect(
        self, rows: dict[str, jax.Array], routed: ReplicatedIds, compress: Compress | None = None
    ) -> dict[str, jax.Array]:
        """The rows are where the batch is already; pools them; see `Exchange`."""
        del compress
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
        step: jax.Array,
        learning_rate_scale: jax.Array,
        key: jax.Array,
    ) -> Tables:
        """Makes the same update on every device; see `Exchange`."""
        step_key = jax.random.fold_in(key, step)
        names = [stack.name for stack in self.layout.stacks]
        tables, row_gradients = {name: tables[name] for name in names}, {name: row_gradients[name] for name in names}
        if not names:
            return {}
        if self.mesh.size == 1:
            return self._update(tables, routed.row_ids, row_gradients, rows, step, learning_rate_scale, step_key)

        def update_replica(
            tables: Tables,
            row_ids: dict[str, jax.Array],
            gradients: dict[str, jax.Array],
            step: jax.Array,
            scale: jax.Array,
            key: jax.Array,
        ) -> Tables:
            # Rows are read again from the local replica: cheaper than moving them over a link.
            row_ids, gradients = jax.lax.all_gather((row_ids, gradients), MESH_AXES, axis=0, tiled=True)
            return self._update(tables, row_ids, gradients, None, step, scale, key)

        whole, by_batch = PartitionSpec(), PartitionSpec(MESH_AXES)
        return jax.shard_map(
            update_replica,
            mesh=self.mesh,
            in_specs=(whole, by_batch, by_batch, whole, whole, whole),
            out_specs=whole,
            check_vma=False,
        )(tables, routed.row_ids, row_gradients, step, learning_rate_scale, step_key)

    def _update(
        self,
        tables: Tables,
        row_ids: Mapping[str, jax.Array],
        gradients: Mapping[str, jax.Array],
        rows: Mapping[str, jax.Array] | None,
        step: jax.Array,
        learning_rate_scale: jax.Array,
        step_key: jax.Array,
    ) -> Tables:
        updated = {}
        for index, stack in enumerate(self.layout.stacks):
            updated[stack.name] = update_stack(
                stack,
                tables[stack.name],
                row_ids[stack.name].reshape(-1),
                gradients[stack.name].reshape(-1, stack.width),
                None if rows is None else rows[stack.name].reshape(-1, stack.width),
                jnp.asarray(step, jnp.int32),
                jnp.asarray(learning_rate_scale, jnp.float32),
                jax.random.fold_in(step_key, index),
            )
        return updated

"""The exchange: how a batch's ids reach the rows, their values the model, and gradients the rows again.

`Exchange` is the interface; where the tables lie and what crosses which link is an implementation's own
affair. Here is the one for tables that every device holds whole.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from wukong_jax.embeddings.layout import EmbeddingLayout
from wukong_jax.embeddings.row_gather import compute_row_ids, gather_rows
from wukong_jax.embeddings.sparse_update import update_stack
from wukong_jax.embeddings.tables import Tables
from wukong_jax.sharding.mesh import CHIP, HOST

MESH_AXES = (HOST, CHIP)
Routed = Any  # a pytree that an exchange understands
Rows = Any  # a pytree of float32 arrays, what the loss is differentiated against


class Exchange(Protocol):
    """Moves ids, rows and row gradients between the batch's devices and the tables' devices."""

    @property
    def table_sharding(self) -> NamedSharding:
        """How every array of the tables lies on the mesh."""
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

    def collect(self, rows: Rows, routed: Routed) -> dict[str, jax.Array]:
        """Brings rows to the devices of the batch; differentiable.

        Args:
          rows: from `gather`.
          routed: from `route_ids`.

        Returns:
          Stack name to [B, S_stack, w] float32, zeros where there is no id.
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
        """
        if mesh.axis_names != MESH_AXES:
            raise ValueError(f"mesh axes {mesh.axis_names}: the exchange needs {MESH_AXES}")
        self.layout = layout
        self.mesh = mesh

    @property
    def table_sharding(self) -> NamedSharding:
        """Every device holds everything."""
        return NamedSharding(self.mesh, PartitionSpec())

    def route_ids(self, ids: jax.Array) -> dict[str, jax.Array]:
        """Turns ids into row ids of each stack; see `Exchange`."""
        return {stack.name: compute_row_ids(self.layout, i, ids) for i, stack in enumerate(self.layout.stacks)}

    def gather(self, tables: Tables, routed: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Reads each device's rows from its own tables; see `Exchange`."""
        stored = {name: tables[name].rows for name in routed}

        def gather_local(stored: dict[str, jax.Array], routed: dict[str, jax.Array]) -> dict[str, jax.Array]:
            return {name: gather_rows(stored[name], routed[name]) for name in routed}

        if self.mesh.size == 1:
            return gather_local(stored, dict(routed))
        whole, by_batch = PartitionSpec(), PartitionSpec(MESH_AXES)
        return jax.shard_map(
            gather_local, mesh=self.mesh, in_specs=(whole, by_batch), out_specs=by_batch, check_vma=False
        )(stored, dict(routed))

    def collect(self, rows: dict[str, jax.Array], routed: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """The rows are where the batch is already; see `Exchange`."""
        del routed
        return dict(rows)

    def apply_row_gradients(
        self,
        tables: Tables,
        routed: Mapping[str, jax.Array],
        rows: Mapping[str, jax.Array],
        row_gradients: Mapping[str, jax.Array],
        step: jax.Array,
        learning_rate_scale: jax.Array,
        key: jax.Array,
    ) -> Tables:
        """Makes the same update on every device; see `Exchange`."""
        step_key = jax.random.fold_in(key, step)
        if self.mesh.size == 1:
            return self._update(tables, routed, row_gradients, rows, step, learning_rate_scale, step_key)

        def update_replica(
            tables: Tables,
            routed: dict[str, jax.Array],
            gradients: dict[str, jax.Array],
            step: jax.Array,
            scale: jax.Array,
            key: jax.Array,
        ) -> Tables:
            # Rows are read again from the local replica: cheaper than moving them over a link.
            routed, gradients = jax.lax.all_gather((routed, gradients), MESH_AXES, axis=0, tiled=True)
            return self._update(tables, routed, gradients, None, step, scale, key)

        whole, by_batch = PartitionSpec(), PartitionSpec(MESH_AXES)
        return jax.shard_map(
            update_replica,
            mesh=self.mesh,
            in_specs=(whole, by_batch, by_batch, whole, whole, whole),
            out_specs=whole,
            check_vma=False,
        )(tables, dict(routed), dict(row_gradients), step, learning_rate_scale, step_key)

    def _update(
        self,
        tables: Tables,
        routed: Mapping[str, jax.Array],
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
                routed[stack.name].reshape(-1),
                gradients[stack.name].reshape(-1, stack.width),
                None if rows is None else rows[stack.name].reshape(-1, stack.width),
                jnp.asarray(step, jnp.int32),
                jnp.asarray(learning_rate_scale, jnp.float32),
                jax.random.fold_in(step_key, index),
            )
        return updated

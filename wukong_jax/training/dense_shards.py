"""Dense weights split over devices (FSDP): gathered where a layer reads them, gradients reduced to their shards.

The network runs inside `shard_map`, on each device's rows, rather than under the compiler's automatic sharding as the
rest of the step does. Only so is the sum of a weight's gradient over the devices a step of its own, which can be a
reduce-scatter on every backend, in a chosen dtype, once a step instead of once a part of the batch where the weight is
whole, and only so is a weight gathered where its layer reads it, again in the backward pass.

Each weight gets a leading axis over the devices that hold copies of it (`spread`), so that a gradient of it is each
device's own and no sum is hidden in differentiation; `reduce` adds them up.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from wukong_jax.layers.batch_norm import STATISTICS
from wukong_jax.layers.batch_rows import describe_rows, find_rows
from wukong_jax.sharding.axis_rules import AxisRules, find_rule
from wukong_jax.sharding.mesh import CHIP, HOST, MESH_AXES
from wukong_jax.sharding.per_device import run_networks_by, split_rows_over
from wukong_jax.training.split_weight import SentAs, SplitWeight, keep_all_but_gathered

_WHOLE = PartitionSpec()
_BY_RANK = PartitionSpec(MESH_AXES)


@dataclasses.dataclass(frozen=True)
class _Split:
    """How one weight is split."""

    spec: PartitionSpec  # of the weight
    kept: bool  # whether the exchange keeps it with its tables: its rows are split over chips only
    copies: tuple[str, ...]  # mesh axes over which devices hold copies, and see different rows
    axis: int  # axis of the weight along which it is split
    gathered: tuple[str, ...]  # mesh axes over which it is split there; (): it is not gathered

    @property
    def spread_spec(self) -> PartitionSpec:
        """The sharding of the weight with its leading axis of copies."""
        return PartitionSpec(self.copies or None, *self.spec)

    @property
    def manual_spec(self) -> PartitionSpec:
        """The same, of the mesh axes that the network sees."""
        entries = [None if self.kept and entry == HOST else entry for entry in self.spec]
        return PartitionSpec(self.copies or None, *entries)


class DenseShards:
    """Runs a network with weights that are split over devices."""

    def __init__(
        self,
        mesh: Mesh,
        specs: Any,
        kept: AxisRules,
        compute_dtype: Any = jnp.float32,
        reduce_dtype: Any = jnp.float32,
        rematerialised: bool = False,
    ) -> None:
        """Plans where each weight is gathered and its gradient added up.

        Args:
          mesh: mesh with axes ("host", "chip").
          specs: nested dict of the weights' PartitionSpecs.
          kept: rules of the weights that the exchange keeps with its tables.
          compute_dtype: dtype in which split weights are gathered; they are float32 where they lie.
          reduce_dtype: dtype in which gradients are sent and added up between devices.
          rematerialised: whether layers are rematerialised, and with them the weights that they gather.
        """
        self.mesh, self.rematerialised = mesh, rematerialised
        self._on_cpu = mesh.devices.flat[0].platform == "cpu"
        self.compute_dtype, self.reduce_dtype = jnp.dtype(compute_dtype), jnp.dtype(reduce_dtype)
        flat = flatten_dict(specs, is_leaf=lambda _, spec: isinstance(spec, PartitionSpec))
        self.splits = {path: _plan(spec, find_rule(kept, "/".join(path)) != _WHOLE) for path, spec in flat.items()}

    def spread(self, params: Any) -> Any:
        """Adds the leading axis of copies to every weight: [*shape] to [copies, *shape], without communication."""

        def spread(path: tuple[str, ...], weight: jax.Array) -> jax.Array:
            count = math.prod(self.mesh.shape[axis] for axis in self.splits[path].copies)
            return self._place(jnp.broadcast_to(weight, (count, *weight.shape)), self.splits[path].spread_spec)

        return _map_weights(spread, params)

    def place(self, gradients: Any) -> Any:
        """Keeps gradients of spread weights where they are made."""
        return _map_weights(lambda path, leaf: self._place(leaf, self.splits[path].spread_spec), gradients)

    def reduce(self, gradients: Any) -> Any:
        """Adds up the gradients of spread weights over the devices: [copies, *shape] to [*shape] float32."""
        flat = flatten_dict(gradients)
        for kept, scope in ((False, "dense_gradients"), (True, "tower_gradients")):
            own = {path: leaf for path, leaf in flat.items() if self.splits[path].kept == kept}
            if own:
                with jax.named_scope(scope):
                    flat |= self._reduce(own)
        return unflatten_dict(flat)

    def _reduce(self, flat: dict[tuple[str, ...], jax.Array]) -> dict[tuple[str, ...], jax.Array]:
        def add(local: dict[tuple[str, ...], jax.Array]) -> dict[tuple[str, ...], jax.Array]:
            return {path: add_up(leaf[0], self.splits[path].copies) for path, leaf in local.items()}

        def add_up(gradient: jax.Array, axes: tuple[str, ...]) -> jax.Array:
            if math.prod(self.mesh.shape[axis] for axis in axes) == 1:
                return gradient
            return jax.lax.psum(gradient.astype(self.reduce_dtype), axes).astype(jnp.float32)

        before = {path: self.splits[path].spread_spec for path in flat}
        after = {path: self.splits[path].spec for path in flat}
        return jax.shard_map(add, mesh=self.mesh, in_specs=(before,), out_specs=after, check_vma=False)(flat)

    @contextlib.contextmanager
    def running(
        self, network: nn.Module, variables: Mapping[str, Any], train: bool, rngs: Mapping[str, jax.Array] | None
    ) -> Iterator["_Running"]:
        """Makes `sharding.per_device.run_on_devices` run this network in the body.

        Args:
          network: unbound network.
          variables: its variables; weights are spread.
          train: whether the running statistics change and gradients are taken.
          rngs: random keys by name.

        Yields:
          An object whose `statistics` are those after the network ran.
        """
        running = _Running(self, network, variables["params"], variables[STATISTICS], train, dict(rngs or {}))
        with run_networks_by(running):
            yield running

    def box(self, path: tuple[str, ...], weight: jax.Array) -> Any:
        """Wraps a device's part of a weight [1, *shape] so that reading it gathers it."""
        split = self.splits[path]
        if math.prod(self.mesh.shape[axis] for axis in split.gathered) == 1:
            return weight[0]
        sent = SentAs(self.compute_dtype.name, self.reduce_dtype.name, self._on_cpu)
        return SplitWeight(weight[0], split.axis, split.gathered, sent)

    def _place(self, array: jax.Array, spec: PartitionSpec) -> jax.Array:
        return jax.lax.with_sharding_constraint(array, NamedSharding(self.mesh, spec))


@dataclasses.dataclass
class _Running:
    """A network at work; see `DenseShards.running`."""

    shards: DenseShards
    network: nn.Module
    params: Any
    statistics: Any
    train: bool
    rngs: dict[str, jax.Array]

    def run(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], in_specs: Any, out_specs: Any, kept: bool
    ) -> Any:
        """Runs a function of the network on every device; see `sharding.per_device.run_on_devices`."""
        shards = self.shards
        axes = (CHIP,) if kept else MESH_AXES
        flat = {path: leaf for path, leaf in flatten_dict(self.params).items() if shards.splits[path].kept == kept}
        specs = {path: shards.splits[path].manual_spec for path in flat}
        rows = None if kept else find_rows()  # what dropout and batch norms read; tower modules have neither

        def run_local(flat: Any, statistics: Any, rngs: Any, rows: Any, arguments: Any) -> Any:
            def apply(flat: Any, statistics: Any, rngs: Any, arguments: Any) -> Any:
                params = unflatten_dict({path: shards.box(path, leaf) for path, leaf in flat.items()})
                variables = {"params": params, STATISTICS: statistics}
                applied = nn.apply(function, self.network, mutable=[STATISTICS] if self.train else False)
                made = applied(variables, *arguments, rngs=rngs)
                return (made[0], made[1].get(STATISTICS, {})) if self.train else (made, statistics)

            if self.train and not shards.rematerialised:
                apply = jax.checkpoint(apply, policy=keep_all_but_gathered)
            with split_rows_over(axes), contextlib.nullcontext() if rows is None else describe_rows(*rows):
                return apply(flat, statistics, rngs, arguments)

        run = jax.shard_map(
            run_local,
            mesh=shards.mesh,
            in_specs=(specs, _WHOLE, _WHOLE, None if rows is None else _BY_RANK, in_specs),
            out_specs=(out_specs, _WHOLE),
            axis_names=frozenset(axes),
            check_vma=False,
        )
        statistics = {} if kept else self.statistics
        made, changed = run(flat, statistics, {} if kept else self.rngs, rows, arguments)
        if not kept:
            self.statistics = changed
        return made


def _plan(spec: PartitionSpec, kept: bool) -> _Split:
    seen = (CHIP,) if kept else MESH_AXES
    entries = [entry if isinstance(entry, tuple) else (entry,) for entry in spec]
    by_axis = [tuple(axis for axis in entry if axis in seen) for entry in entries]
    axis = next((index for index, own in enumerate(by_axis) if own), 0)
    gathered = by_axis[axis] if by_axis else ()
    return _Split(spec, kept, tuple(axis for axis in seen if axis not in gathered), axis, gathered)


def _map_weights(function: Callable[[tuple[str, ...], jax.Array], jax.Array], weights: Any) -> Any:
    return unflatten_dict({path: function(path, leaf) for path, leaf in flatten_dict(weights).items()})

"""A device's part of a dense weight, which is gathered where a module reads it; its gradient is reduce-scattered.

Flax calls `unbox` of whatever box a weight is in at the moment when a module asks for the weight. So a box is all that
it takes to gather a weight where it is used: models know nothing of it.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax.core import meta


@dataclasses.dataclass(frozen=True)
class SentAs:
    """How a weight and its gradient are sent."""

    dtype: str  # of the weight
    reduce_dtype: str  # of the gradient
    on_cpu: bool


class SplitWeight(flax.struct.PyTreeNode, meta.AxisMetadata[jax.Array]):
    """A device's part of a weight; Flax calls `unbox` where a module reads the weight, which gathers it."""

    part: jax.Array
    axis: int = flax.struct.field(pytree_node=False)
    mesh_axes: tuple[str, ...] = flax.struct.field(pytree_node=False)
    sent: SentAs = flax.struct.field(pytree_node=False)

    def unbox(self) -> jax.Array:
        """Gathers the weight."""
        return _gather(self.part, self.axis, self.mesh_axes, self.sent)

    def replace_boxed(self, value: Any) -> Any:
        """Returns the same box around another part."""
        return self.replace(part=value)

    def add_axis(self, index: int, params: Mapping[Any, Any]) -> "SplitWeight":
        """Adapts to an axis that `nn.vmap` adds."""
        return self.replace(axis=self.axis + (index <= self.axis))

    def remove_axis(self, index: int, params: Mapping[Any, Any]) -> "SplitWeight":
        """Adapts to an axis over which `nn.vmap` maps."""
        return self.replace(axis=self.axis - (index < self.axis))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _gather(part: jax.Array, axis: int, mesh_axes: tuple[str, ...], sent: SentAs) -> jax.Array:
    """Gathers a weight; its gradient is reduce-scattered."""
    gather = functools.partial(jax.lax.all_gather, axis_name=mesh_axes, axis=axis, tiled=True)
    with jax.named_scope("gather_weights"):
        part = part.astype(sent.dtype)
        if part.dtype == jnp.float32 or not sent.on_cpu:
            return gather(part)
        # As bits, because XLA:CPU would widen a bfloat16 collective to float32; on TPUs, bits would be copied.
        return jax.lax.bitcast_convert_type(gather(jax.lax.bitcast_convert_type(part, jnp.uint16)), part.dtype)


def _gather_forward(part: jax.Array, axis: int, mesh_axes: tuple[str, ...], sent: SentAs) -> tuple[jax.Array, None]:
    return _gather(part, axis, mesh_axes, sent), None


def _gather_backward(
    axis: int, mesh_axes: tuple[str, ...], sent: SentAs, _: None, gradient: jax.Array
) -> tuple[jax.Array]:
    with jax.named_scope("dense_gradients"):
        rounded = gradient.astype(sent.reduce_dtype)
        added = jax.lax.psum_scatter(rounded, mesh_axes, scatter_dimension=axis, tiled=True)
        return (added.astype(jnp.float32),)


_gather.defvjp(_gather_forward, _gather_backward)


def keep_all_but_gathered(primitive: Any, *_: Any, **settings: Any) -> bool:
    """A policy of `jax.checkpoint`: keeps everything for the backward pass but gathered weights."""
    inner = settings.get("call_jaxpr")
    if not primitive.name.startswith("custom_vjp_call") or inner is None:
        return True
    return all(equation.primitive.name != "all_gather" for equation in inner.eqns)

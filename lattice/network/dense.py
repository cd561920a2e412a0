"""The linear layer of Lattice networks: with or without bias, optionally in 8 bits, shared or untied (per domain).

An untied layer multiplies all rows by the kernels of all domains and keeps the result of each row's domain: one matrix
product and a mask. Gathering a kernel per row would create B copies (260 MiB instead of 16 MiB at B = 4096, 2 domains
and 64 x 128 weights). The FLOPs of a product therefore grow with the number of domains, in serving too: a serving model
for a single domain is not implemented.
"""

import dataclasses
import math
from functools import partial
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from lattice.network.float8 import multiply_float8
from lattice.network.norms import NormKind
from wukong_jax.layers.mlp import output_initializer
from wukong_jax.layers.short_sequences import KeptTokens
from wukong_jax.layers.token_maps import map_tokens

Float8 = Literal["none", "tensor", "row"]


@dataclasses.dataclass(frozen=True)
class LayerSettings:
    """Settings that all layers of a network share."""

    domains: int = 1  # G
    dtype: Any = jnp.float32  # dtype of the products; parameters are float32
    norm: NormKind = "swish_rms"
    biases: bool = False
    float8: Float8 = "none"


def multiply_in_precision(values: jax.Array, kernel: jax.Array, settings: LayerSettings) -> jax.Array:
    """Multiplies [M, K] by [K, N] in the settings' precision; returns [M, N] in their dtype."""
    values, kernel = values.astype(settings.dtype), kernel.astype(settings.dtype)
    if settings.float8 == "none":
        return values @ kernel
    return multiply_float8(values, kernel, settings.float8)


def map_tokens_in_precision(tokens: jax.Array, kernel: jax.Array, settings: LayerSettings) -> jax.Array:
    """Mixes tokens [B, D, N] linearly with a kernel [N, M], in the settings' precision; returns [B, D, M]."""
    return map_tokens(tokens, kernel, partial(multiply_in_precision, settings=settings))


class Dense(nn.Module):
    """A linear layer over the last axis.

    Attributes:
      features: width of the output.
      settings: see `LayerSettings`.
      untied: whether each domain has a separate kernel (and bias).
      kernel_init: initialiser of one domain's kernel [inputs, features].
      kept: the tokens whose values are the inputs, if those of others are left out because they are zero; None: all.
    """

    features: int
    settings: LayerSettings
    untied: bool = False
    kernel_init: nn.initializers.Initializer = output_initializer()
    kept: KeptTokens | None = None

    is_layer: ClassVar[bool] = True

    @nn.compact
    def __call__(self, values: jax.Array, domain: jax.Array) -> jax.Array:
        """Applies the layer.

        Args:
          values: [B, inputs] or [B, L, inputs]; of the inputs those of kept tokens, in groups of as many.
          domain: [B] int32 in [0, G).

        Returns:
          [B, features] or [B, L, features] in the settings' dtype.
        """
        settings, kept, given = self.settings, self.kept, values.shape[-1]
        inputs = given if kept is None else given // kept.count * kept.total
        untied = self.untied and settings.domains > 1
        shape = (inputs, self.features)
        if not untied:
            kernel = self.param("kernel", self.kernel_init, shape)
            kernel = kernel if kept is None else kept.take(kernel)
            made = multiply_in_precision(values.reshape(-1, given), kernel, settings)
        else:
            kernel = self.param("kernel", _init_each(self.kernel_init), (settings.domains, *shape))
            kernel = kernel if kept is None else kept.take(kernel, axis=1)
            own = jax.nn.one_hot(domain, settings.domains, dtype=settings.dtype)
            own = jnp.repeat(own, math.prod(values.shape[1:-1]), axis=0)
            made = multiply_by_domain(values.reshape(-1, given), kernel, own, settings)
        made = made.reshape(*values.shape[:-1], self.features)
        if settings.biases:
            made = made + self._bias(domain, untied, made.ndim).astype(made.dtype)
        return made

    def _bias(self, domain: jax.Array, untied: bool, axes: int) -> jax.Array:
        if not untied:
            return self.param("bias", nn.initializers.zeros_init(), (self.features,))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.settings.domains, self.features))
        own = jax.nn.one_hot(domain, self.settings.domains) @ bias
        return own if axes == 2 else own[:, None, :]


def multiply_by_domain(values: jax.Array, kernel: jax.Array, own: jax.Array, settings: LayerSettings) -> jax.Array:
    """Multiplies each row by its domain's kernel.

    The mask is applied to the narrower of input and output, which becomes G times as wide.

    Args:
      values: [M, K] rows.
      kernel: [G, K, N] kernel of each domain.
      own: [M, G], 1 for the row's domain and 0 elsewhere, in the settings' dtype.
      settings: settings of the products.

    Returns:
      [M, N] in the settings' dtype.
    """
    domains, inputs, features = kernel.shape
    if inputs <= features:
        masked = (values[:, None, :].astype(settings.dtype) * own[:, :, None]).reshape(-1, domains * inputs)
        return multiply_in_precision(masked, kernel.reshape(domains * inputs, features), settings)
    wide = multiply_in_precision(values, kernel.transpose(1, 0, 2).reshape(inputs, domains * features), settings)
    return (wide.reshape(-1, domains, features) * own[:, :, None]).sum(axis=1)


def _init_each(initializer: nn.initializers.Initializer) -> nn.initializers.Initializer:
    """Returns an initialiser that draws a kernel [G, inputs, features] independently for each domain."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        keys = jax.random.split(key, shape[0])
        return jax.vmap(lambda key: initializer(key, shape[1:], dtype))(keys)

    return init

"""The linear layer of Lattice networks: with or without a bias, in 8 bits or not, one for all or one for each domain.

Untied kernels are products of all rows with all domains' kernels of which each row keeps its own: one plain product
and a mask. Gathering a kernel per row would make B copies of it (260 MiB against 16 MiB at B = 4096, 2 domains and
64 x 128 weights). A product costs as many FLOPs as there are domains, in serving too: no server of one domain
is built here.
"""

import dataclasses
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from lattice.network.float8 import multiply_float8
from lattice.network.norms import NormKind
from wukong_jax.layers.mlp import output_initializer
from wukong_jax.layers.token_maps import map_tokens

Float8 = Literal["none", "tensor", "row"]


@dataclasses.dataclass(frozen=True)
class LayerSettings:
    """What all layers of a network have in common."""

    domains: int = 1  # G
    dtype: Any = jnp.float32  # of the products; parameters are float32
    norm: NormKind = "swish_rms"
    biases: bool = False
    float8: Float8 = "none"


def multiply_in_precision(values: jax.Array, kernel: jax.Array, settings: LayerSettings) -> jax.Array:
    """[M, K] times [K, N] in the settings' precision; returns [M, N] in their dtype."""
    values, kernel = values.astype(settings.dtype), kernel.astype(settings.dtype)
    if settings.float8 == "none":
        return values @ kernel
    return multiply_float8(values, kernel, settings.float8)


def map_tokens_in_precision(tokens: jax.Array, kernel: jax.Array, settings: LayerSettings) -> jax.Array:
    """Mixes tokens linearly in the settings' precision: [B, D, N] and [N, M] to [B, D, M]."""
    return map_tokens(tokens, kernel, partial(multiply_in_precision, settings=settings))


class Dense(nn.Module):
    """A linear layer over the last axis.

    Attributes:
      features: of the output.
      settings: see `LayerSettings`.
      untied: whether each domain has a kernel (and a bias) of its own.
      kernel_init: of one domain's kernel [inputs, features].
    """

    features: int
    settings: LayerSettings
    untied: bool = False
    kernel_init: nn.initializers.Initializer = output_initializer()

    @nn.compact
    def __call__(self, values: jax.Array, domain: jax.Array) -> jax.Array:
        """Applies the layer.

        Args:
          values: [B, inputs] or [B, L, inputs].
          domain: [B] int32 in [0, G).

        Returns:
          [B, features] or [B, L, features] in the settings' dtype.
        """
        settings, inputs = self.settings, values.shape[-1]
        untied = self.untied and settings.domains > 1
        shape = (inputs, self.features)
        if not untied:
            kernel = self.param("kernel", self.kernel_init, shape)
            made = multiply_in_precision(values.reshape(-1, inputs), kernel, settings)
        else:
            kernel = self.param("kernel", _init_each(self.kernel_init), (settings.domains, *shape))
            own = jax.nn.one_hot(domain, settings.domains, dtype=settings.dtype)
            own = jnp.repeat(own, values.size // (inputs * len(own)), axis=0)
            made = multiply_by_domain(values.reshape(-1, inputs), kernel, own, settings)
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
    """Multiplies each row by its domain's kernel; the mask goes on the narrower side, which is made G times as wide.

    Args:
      values: [M, K].
      kernel: [G, K, N].
      own: [M, G], 1 at the row's domain and 0 elsewhere, in the settings' dtype.
      settings: of the products.

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
    """Draws [G, inputs, features] kernel by kernel: equal kernels for all domains would stay so only by chance."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        keys = jax.random.split(key, shape[0])
        return jax.vmap(lambda key: initializer(key, shape[1:], dtype))(keys)

    return init

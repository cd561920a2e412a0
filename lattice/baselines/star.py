"""STAR (arXiv 2101.11427): a shared network whose weights are multiplied by domain weights, after a partitioned norm.

    normed = partitioned norm(x)
    each layer: x = relu((W_shared * W_p) x + b_shared + b_p), p the row's domain, * elementwise; the last has no relu
    logits = the last layer's + auxiliary network([x, domain token])

This follows the paper's definition. A well-known port instead normalises every domain by the whole batch, also at test
time, and applies a norm and a relu to the logit. Where the paper has one objective or leaves a choice open, we chose:
the last layer and the auxiliary network have one output per objective; domain weights start at one and domain biases at
zero, so that all domains start as the shared network; `mlp_norm` adds a norm, shared by all domains, before each relu
of both networks.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from lattice.baselines.multi_domain import domain_token, own_domain_rows
from lattice.baselines.partitioned_norm import PartitionedNorm
from lattice.baselines.tasks import require_layers
from wukong_jax.layers.dropout import Dropout
from wukong_jax.layers.mlp import HIDDEN_INITIALIZER, apply_hidden_norm, output_initializer
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.outputs import Outputs
from wukong_jax.models.shape import ModelShape
from wukong_jax.models.vector_model import VectorModelOptions, build_options, input_vectors, output_layers
from wukong_jax.ranges import AtLeast, Fraction


@dataclasses.dataclass(frozen=True)
class StarOptions(VectorModelOptions):
    """`config.model.options` of `lattice.baselines.star:build`; the default sizes are our choice."""

    star_hidden: Annotated[tuple[int, ...], AtLeast(1)] = (256, 128, 64)  # hidden widths of the star-shaped network
    star_dropout: Annotated[float, Fraction()] = 0.0  # after each hidden layer of the star-shaped network
    auxiliary_hidden: Annotated[tuple[int, ...], AtLeast(1)] = (32,)  # hidden widths of the auxiliary network
    auxiliary_dropout: Annotated[float, Fraction()] = 0.0
    statistics_momentum: Annotated[float, Fraction()] = 0.99  # of the partitioned norm's moving averages

    def __post_init__(self) -> None:
        """Refuses idle options, and a star without a hidden layer."""
        super().__post_init__()
        require_layers(self, "star_hidden")


class Star(nn.Module):
    """Partitioned norm, star-shaped layers, and an auxiliary network that sees the domain."""

    options: StarOptions
    shape: ModelShape

    @nn.compact
    def __call__(self, inputs: ModelInputs, *, train: bool) -> Outputs:
        """Computes the logits; see `ModelInputs` and `Outputs`."""
        options, shape, domain = self.options, self.shape, inputs.domain
        vectors = input_vectors(inputs, options, shape, train=train)
        flat = vectors.reshape(vectors.shape[0], -1)
        # Padding rows have no token; if the data has no tokens at all, padding cannot be recognised.
        filled = jnp.any(inputs.token_mask > 0, axis=1) if shape.tokens else jnp.ones(domain.shape[0], bool)
        norm = PartitionedNorm(shape.domains, options.statistics_momentum, name="partitioned_norm")
        hidden = norm(flat, domain, filled, train=train)
        for index, width in enumerate(options.star_hidden):
            hidden = self._layer(f"star_{index}", width, HIDDEN_INITIALIZER, shape.dtype)(hidden, domain)
            hidden = apply_hidden_norm(options.mlp_norm, hidden, train=train, name=f"star_{index}_norm")
            hidden = Dropout(options.star_dropout, deterministic=not train)(nn.relu(hidden))
        initializer = output_initializer(options.head_output_scale)
        logits = self._layer("star_output", shape.objectives, initializer, jnp.float32)(hidden, domain)
        seen = jnp.concatenate([flat, domain_token(self, domain, shape)], axis=1) if shape.domains > 1 else flat
        sizes, dropout = options.auxiliary_hidden, options.auxiliary_dropout
        auxiliary = output_layers(sizes, options, shape, name="auxiliary", dropout=dropout)
        return Outputs(logits + auxiliary(seen, train=train), {})

    def _layer(
        self, name: str, features: int, initializer: nn.initializers.Initializer, output_dtype: Any
    ) -> "StarDense":
        biases = self.options.mlp_biases
        return StarDense(self.shape.domains, features, initializer, self.shape.dtype, output_dtype, biases, name=name)


class StarDense(nn.Module):
    """(W_shared * W_p) x + b_shared + b_p for a row of domain p.

    Attributes:
      domains: G.
      features: width of the output.
      kernel_init: initialiser of the shared kernel.
      dtype: dtype of the operands of the matrix products.
      output_dtype: dtype of their results.
      biases: whether the layer has biases.
    """

    domains: int
    features: int
    kernel_init: nn.initializers.Initializer
    dtype: Any
    output_dtype: Any
    biases: bool

    is_layer: ClassVar[bool] = True

    @nn.compact
    def __call__(self, values: jax.Array, domain: jax.Array) -> jax.Array:
        """Applies the layer.

        One product computes the outputs for all domains, and each row keeps those of its domain. Gathering a kernel for
        each row would make B copies.

        Args:
          values: [B, n] float.
          domain: [B] int32.

        Returns:
          [B, features] in the output dtype.
        """
        domains, features, inputs = self.domains, self.features, values.shape[1]
        shared = self.param("kernel", self.kernel_init, (inputs, features))
        own = self.param("domain_kernel", nn.initializers.ones_init(), (domains, inputs, features))
        kernels = (shared * own).transpose(1, 0, 2).reshape(inputs, domains * features)
        made = jnp.matmul(
            values.astype(self.dtype), kernels.astype(self.dtype), preferred_element_type=self.output_dtype
        )
        mask = jax.nn.one_hot(domain, domains, dtype=bool)[:, :, None]
        made = jnp.where(mask, made.reshape(-1, domains, features), 0).sum(axis=1)
        if self.biases:
            bias = self.param("bias", nn.initializers.zeros_init(), (features,))
            domain_bias = self.param("domain_bias", nn.initializers.zeros_init(), (domains, features))
            made = made + own_domain_rows(bias + domain_bias, domain).astype(made.dtype)
        return made


def build(options: Mapping[str, Any], shape: ModelShape) -> nn.Module:
    """Builds the model from a config.

    Args:
      options: keys of `StarOptions`.
      shape: sizes of inputs and outputs.

    Returns:
      A `Star`.

    Raises:
      UserError: an unknown option, a value out of range, or an option that would have no effect.
    """
    return Star(build_options(StarOptions, options, shape), shape)

"""AFN+ (arXiv 1909.03276): products of learned powers of the embeddings, combined with an MLP over other embeddings.

The paper, its authors' code and FuxiCTR differ; this implementation chooses as follows:

- *Norm.* The authors use batch norm of the logarithms (per field) and of the products (per neuron). Here both are
  layer norms over all of a row's values: norms over the coordinates of one field would remove the field's magnitude,
  on which the products depend.
- *Clip.* Absolute values are clipped from below: at 1e-4 in the authors' code, at 1e-5 in FuxiCTR, which reports it
  as better than the paper's 1e-7. All values of an absent token are clipped, and so would be half of the dense vector
  after a ReLU; therefore the bottom MLP ends without a ReLU by default.
- *Ensemble.* The authors stop the gradient at both logits, weight them, and add the losses of all three; FuxiCTR uses
  one loss and trains through the weights. This implementation does the same; the weights start at the authors' 0.5,
  one per objective, and the biases of the two logits replace the bias of the sum.
- *Two tables.* The MLP has separate embeddings: a table is twice as wide as a branch, products read the first half of
  each vector, the MLP the second. A table's settings (initial scale, L2, an optimizer with one number per row) apply
  to both halves, and `embedding_norm` computes its statistics over both.

*Initial values.* Normalised logarithms have unit size, so exponents drawn from N(0, 0.1) (as the authors do) give sums
of size 0.1 sqrt(n): for tens of vectors, products between a third and three for any initial scale of the embeddings, a
range where exp is neither flat nor steep. Without `log_norm` the logarithms are near -4.5 at scale 0.02 (-7.5 at 1e-3)
and products start spread over e^(+-2) at n = 16; a smaller `exponent_scale` narrows that. Gradients are proportional to
1 / |x|, so an optimizer that normalises them (Adam, Adagrad) suits the tables; the authors also clip gradients.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from wukong_jax.errors import UserError
from wukong_jax.layers.norms import LayerNorm
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.outputs import Outputs
from wukong_jax.models.shape import ModelShape
from wukong_jax.models.vector_model import (
    VectorModelOptions,
    build_options,
    count_vectors,
    input_vectors,
    output_layers,
)
from wukong_jax.ranges import Above, AtLeast, Fraction, Range

TRANSFORMATION_NORM_EPSILON = 1e-6  # logarithms and products have unit size at any scale of the embeddings
# Upper limit of sums of logarithms: e**20 is 5e8, and its square, summed over a row, is far below float32's limit.
LARGEST_LOGARITHM = 20.0


@dataclasses.dataclass(frozen=True)
class AFNOptions(VectorModelOptions):
    """`config.model.options` of `wukong_jax.models.afn:build`; the default sizes are those of the authors' code.

    For AFN+ on Frappe, BARS uses 1000 neurons with one hidden layer of 400 over them, and 3 x 400 in the other MLP.
    """

    bottom_output_activation: Literal["relu", "none"] = "none"  # logarithms of a ReLU's zeros carry no information
    log_neurons: Annotated[int, AtLeast(1)] = 600  # number of products for each coordinate
    # smaller absolute values are replaced by this and get no gradient
    log_epsilon: Annotated[float, Range(1e-12, 1, includes_high=False)] = 1e-5
    log_norm: bool = True  # layer norm over all of a row's logarithms
    exp_norm: bool = True  # layer norm over all of a row's products
    exponent_scale: Annotated[float, Above(0)] = 0.1  # initial standard deviation of the exponents
    # hidden widths of the MLP over the products; empty for a linear layer
    afn_hidden: Annotated[tuple[int, ...], AtLeast(1)] = (400, 400, 400)
    afn_dropout: Annotated[float, Fraction()] = 0.0  # after each of its hidden layers
    # the "+" of AFN+: hidden widths of the other MLP; empty for plain AFN, which uses all of D
    deep_hidden: Annotated[tuple[int, ...], AtLeast(1)] = (400, 400, 400)
    deep_dropout: Annotated[float, Fraction()] = 0.0  # after each of its hidden layers


class LogarithmicTransformation(nn.Module):
    """Computes exp(sum_i w_ij log |x_i|), the product of all |x_i|^w_ij, for each coordinate and each neuron j.

    The layer computes in float32 at full precision for any compute dtype, including the product of logarithms and
    exponents, because an absolute error of a logarithm becomes a relative error of the result. This concerns n of the
    n + h multiplications of each value on its way into h hidden units. Earlier rounding to bfloat16 remains: the
    rounding error of an embedding is relative, but that of a dense vector is not if its sums cancel, and near zero its
    logarithm is far off.

    Attributes:
      neurons: number of products per coordinate.
      epsilon: smallest absolute value, see `AFNOptions`.
      log_norm: whether a row's logarithms are normalised.
      exp_norm: whether a row's products are normalised.
      exponent_scale: initial standard deviation of the exponents.
    """

    neurons: int
    epsilon: float
    log_norm: bool
    exp_norm: bool
    exponent_scale: float

    is_layer: ClassVar[bool] = True

    @nn.compact
    def __call__(self, vectors: jax.Array) -> jax.Array:
        """Computes the products.

        Args:
          vectors: [B, n, width], any float dtype.

        Returns:
          [B, width * neurons] float32, sorted by coordinate, then by neuron; positive without `exp_norm`.
        """
        rows, count, width = vectors.shape
        logarithms = jnp.log(jnp.maximum(jnp.abs(vectors.astype(jnp.float32)), self.epsilon))
        if self.log_norm:
            logarithms = LayerNorm((1, 2), TRANSFORMATION_NORM_EPSILON, name="log_norm")(logarithms)
        sums = nn.Dense(
            self.neurons,
            use_bias=False,
            precision=jax.lax.Precision.HIGHEST,
            kernel_init=nn.initializers.normal(self.exponent_scale),
            name="exponents",
        )(logarithms.transpose(0, 2, 1).reshape(rows * width, count))
        products = jnp.exp(jnp.minimum(sums, LARGEST_LOGARITHM)).reshape(rows, -1)
        if self.exp_norm:
            products = LayerNorm((1,), TRANSFORMATION_NORM_EPSILON, name="exp_norm")(products)
        return products


class AFN(nn.Module):
    """Weighted sum of two logits: an MLP over products of powers, and an MLP over the other half of each vector."""

    options: AFNOptions
    shape: ModelShape

    @nn.compact
    def __call__(self, inputs: ModelInputs, *, train: bool) -> Outputs:
        """Computes the logits; see `ModelInputs` and `Outputs`."""
        options, shape = self.options, self.shape
        vectors = input_vectors(inputs, options, shape, train=train)
        width = branch_width(options, shape)
        products = LogarithmicTransformation(
            options.log_neurons,
            options.log_epsilon,
            options.log_norm,
            options.exp_norm,
            options.exponent_scale,
            name="transformation",
        )(vectors[:, :, :width])
        behind = output_layers(options.afn_hidden, options, shape, name="afn", dropout=options.afn_dropout)
        made = behind(products.astype(shape.dtype), train=train)
        if not options.deep_hidden:
            return Outputs(made, {})
        flat = vectors[:, :, width:].reshape(vectors.shape[0], -1)
        beside = output_layers(options.deep_hidden, options, shape, name="deep", dropout=options.deep_dropout)
        deep = beside(flat, train=train)
        weights = self.param("branch_weights", nn.initializers.constant(0.5), (2, shape.objectives))
        return Outputs(weights[0] * made + weights[1] * deep, {})


def branch_width(options: AFNOptions, shape: ModelShape) -> int:
    """Returns the width of the embeddings that a branch reads: half of D if there are two branches."""
    return shape.width // 2 if options.deep_hidden else shape.width


def build(options: Mapping[str, Any], shape: ModelShape) -> nn.Module:
    """Builds the model from a config.

    Args:
      options: keys of `AFNOptions`.
      shape: sizes of inputs and outputs; `width` counts both branches.

    Returns:
      An `AFN`.

    Raises:
      UserError: an unknown option, a value out of range, an option without effect, an odd width with two branches, or
        a norm of a single value.
    """
    built = build_options(AFNOptions, options, shape)
    if built.deep_hidden and shape.width % 2:
        raise UserError(
            f"width = {shape.width}: AFN+ gives half of each embedding to each branch; make it even, or set "
            "config.model.options.deep_hidden to [] for AFN"
        )
    width = branch_width(built, shape)
    for name, values in (("log_norm", count_vectors(shape) * width), ("exp_norm", built.log_neurons * width)):
        if getattr(built, name) and values == 1:
            raise UserError(f"config.model.options.{name} = True: one value a row cannot be normalised; turn it off")
    return AFN(built, shape)

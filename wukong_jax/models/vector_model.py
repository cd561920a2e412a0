"""Common parts of the baselines, which turn a row into n vectors of one width, and these into logits."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from wukong_jax.idle_options import refuse_idle
from wukong_jax.layers.dropout import Dropout
from wukong_jax.layers.mlp import MLP, HiddenNorm
from wukong_jax.layers.norms import LayerNorm
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.shape import ModelShape
from wukong_jax.ranges import Above, AtLeast, Fraction
from wukong_jax.strict_mapping import build_dataclass

EMBEDDING_NORM_EPSILON = 1e-12  # embeddings may start at 1e-3 or smaller, a variance of 1e-6


@dataclasses.dataclass(frozen=True)
class DenseVectorOptions:
    """Options of models that turn the dense columns into one vector of the embeddings' width, and end in an MLP.

    Without dense columns, there is no bottom MLP and its options have no effect.
    """

    # hidden widths of the MLP of the dense columns; its output has width D
    bottom_hidden: Annotated[tuple[int, ...], AtLeast(1)] = (512, 256)
    bottom_output_activation: Literal["relu", "none"] = "relu"  # the original code has a ReLU after every layer
    bottom_output_scale: Annotated[float, Above(0)] = 1.0  # initial size of the dense vector relative to its inputs
    bottom_dropout: Annotated[float, Fraction()] = 0.0  # after each hidden layer of the bottom MLP
    mlp_biases: bool = True  # biases in all MLPs
    embedding_dropout: Annotated[float, Fraction()] = 0.0  # of single coordinates of the input embeddings
    head_output_scale: Annotated[float, AtLeast(0)] = 0.01  # initial size of the logits relative to their inputs

    def __post_init__(self) -> None:
        """Refuses dropout of hidden layers that do not exist, including those that a subclass adds."""
        for name in (field.name for field in dataclasses.fields(self) if field.name.endswith("_dropout")):
            hidden = name.replace("_dropout", "_hidden")
            refuse_idle(self, name, not getattr(self, hidden, True), f"without {hidden}")


@dataclasses.dataclass(frozen=True)
class VectorModelOptions(DenseVectorOptions):
    """Options of every model over a row's vectors.

    Published settings for small data sets use batch norm in the MLPs. The layer norms, which do not mix the rows of a
    batch, are our addition.
    """

    embedding_norm: bool = False  # layer norm over a row's flattened embeddings, before anything reads them
    mlp_norm: HiddenNorm = "none"  # before each ReLU of the MLPs after the vectors (not of the bottom MLP)

    def __post_init__(self) -> None:
        """Refuses dropout and norms of hidden layers that do not exist."""
        super().__post_init__()
        names = [field.name for field in dataclasses.fields(self) if field.name.endswith("_hidden")]
        hidden = any(getattr(self, name) for name in names if name != "bottom_hidden")
        refuse_idle(self, "mlp_norm", not hidden, "without hidden layers")


OptionsT = TypeVar("OptionsT", bound=VectorModelOptions)


def build_options(kind: type[OptionsT], options: Mapping[str, Any], shape: ModelShape) -> OptionsT:
    """Reads a model's options.

    Args:
      kind: dataclass of the options.
      options: `config.model.options`.
      shape: sizes of inputs and outputs.

    Returns:
      The options.

    Raises:
      UserError: an unknown option, a value out of range, or an option without effect.
    """
    built = build_dataclass(kind, options, "config.model.options")
    for name in ("embedding_norm", "embedding_dropout"):
        refuse_idle(built, name, not shape.tokens, "without embeddings", "config.model.options.")
    return built


def count_vectors(shape: ModelShape) -> int:
    """Returns n, the number of vectors that `input_vectors` returns for this shape."""
    return shape.tokens + (shape.dense_features > 0)


def input_vectors(inputs: ModelInputs, options: VectorModelOptions, shape: ModelShape, *, train: bool) -> jax.Array:
    """Returns the input vectors of a network: the dense vector if there are dense columns, then the embeddings.

    Like the functions below, it must be called in a module's compact method, and adds submodules to that module.

    Args:
      inputs: the model's inputs.
      options: the model's options.
      shape: sizes and compute dtype.
      train: whether dropout is on.

    Returns:
      [B, n, D] in the compute dtype.
    """
    vectors = prepared_embeddings(inputs, options, shape, train=train)
    if shape.dense_features:
        made = dense_vector(inputs.dense, options, shape, train=train)
        vectors = jnp.concatenate([made[:, None], vectors], axis=1)
    return vectors


def prepared_embeddings(
    inputs: ModelInputs, options: VectorModelOptions, shape: ModelShape, *, train: bool
) -> jax.Array:
    """Applies norm and dropout to the embeddings, zeros if absent: [B, N, D] in the compute dtype."""
    vectors = inputs.present_embeddings.astype(shape.dtype)
    if options.embedding_norm:
        flat = vectors.reshape(vectors.shape[0], -1)
        vectors = LayerNorm((1,), EMBEDDING_NORM_EPSILON, name="embedding_norm")(flat).reshape(vectors.shape)
    return Dropout(options.embedding_dropout, deterministic=not train)(vectors)


def dense_vector(dense: jax.Array, options: DenseVectorOptions, shape: ModelShape, *, train: bool) -> jax.Array:
    """Applies the bottom MLP as submodule "bottom" of the calling module.

    Args:
      dense: [B, F_dense] float32.
      options: options of the bottom MLP.
      shape: sizes and compute dtype.
      train: whether dropout is on.

    Returns:
      [B, D] in the compute dtype.
    """
    rectified = options.bottom_output_activation == "relu"
    bottom = MLP(
        options.bottom_hidden,
        shape.width,
        shape.dtype,
        options.mlp_biases,
        options.bottom_dropout,
        # a ReLU halves the mean square
        options.bottom_output_scale * (2**0.5 if rectified else 1.0),
        name="bottom",
    )
    made = bottom(dense.astype(shape.dtype), train=train)
    return nn.relu(made) if rectified else made


def hidden_layers(
    widths: tuple[int, ...], options: VectorModelOptions, shape: ModelShape, *, name: str, dropout: float = 0.0
) -> MLP:
    """Returns an MLP of hidden layers only, with a model's common MLP options; its output has the compute dtype."""
    return MLP(widths, None, shape.dtype, options.mlp_biases, dropout, norm=options.mlp_norm, name=name)


def output_layers(
    hidden: tuple[int, ...],
    options: VectorModelOptions,
    shape: ModelShape,
    *,
    name: str = "head",
    dropout: float = 0.0,
) -> MLP:
    """Returns the MLP that ends in the logits, [B, O] float32, which start near zero (`head_output_scale`)."""
    return MLP(
        hidden,
        shape.objectives,
        shape.dtype,
        options.mlp_biases,
        dropout,
        options.head_output_scale,
        output_dtype=jnp.float32,
        norm=options.mlp_norm,
        name=name,
    )

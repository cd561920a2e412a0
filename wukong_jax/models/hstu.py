"""HSTU for ranking (arXiv 2402.17152): context, events and candidate of a row under unnormalised causal attention.

    [U, V, Q, K] = SiLU(linear(norm X))
    A            = SiLU(Q K^T + position bias) / n, zero where a token may not be seen
    X'           = X + linear(norm(A V) * U)

The tokens are the row's context (every embedding that is neither an event nor the candidate's, and one of the dense
columns), the events in the order of time, and the candidate, which is the columns `target` together. Context tokens are
seen by all, and see context alone; an event sees itself and earlier events; the candidate sees everything, and the
logits are an MLP of it. Only the layer is Meta's: training over whole histories at once, stochastic lengths and serving
with many candidates behind one history are not built, and events have no time of their own here, so that the bias is
by position alone. Our choices where the paper and Meta's public code differ or are silent:

- Inputs have a layer norm, and A is divided by n, the most tokens a row can have, as in all public code; the paper's
  equations have neither. The scores are not divided by a head's width, as in the paper.
- The position bias is shared by the heads, as in the public research code.
- The first linear map has biases, the second none, as in the public ranking code.
- The last layer computes the candidate alone, since nothing reads the rest.

Without `sequences`, this is unnormalised attention over fields, which the paper does not propose.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from wukong_jax.embeddings.rearrange import take_vectors
from wukong_jax.errors import UserError
from wukong_jax.layers.mlp import output_initializer
from wukong_jax.layers.norms import LayerNorm
from wukong_jax.layers.short_sequences import kept_length
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.outputs import Outputs
from wukong_jax.models.shape import ModelShape
from wukong_jax.models.vector_model import (
    VectorModelOptions,
    build_options,
    dense_vector,
    output_layers,
    prepared_embeddings,
)
from wukong_jax.ranges import AtLeast, Fraction

OPTIONS = "config.model.options"
TOKEN_NORM_EPSILON = 1e-12  # tokens start about as small as the embeddings, which may start at 1e-3
MIXED_NORM_EPSILON = 1e-12  # sums of products of two SiLUs by n


@dataclasses.dataclass(frozen=True)
class HSTUOptions(VectorModelOptions):
    """`config.model.options` of `wukong_jax.models.hstu:build`; the default sizes are ours."""

    sequences: tuple[str, ...] = ()  # columns read as events; their pooling must be "none"
    target: tuple[str, ...] = ()  # columns of the candidate; none: the candidate's token is learned
    token_width: Annotated[int, AtLeast(1)] = 64  # d
    layers: Annotated[int, AtLeast(1)] = 2
    heads: Annotated[int, AtLeast(1)] = 2
    query_width: Annotated[int, AtLeast(1)] = 16  # of one head's queries and keys
    value_width: Annotated[int, AtLeast(1)] = 32  # of one head's values and gates
    position_bias: bool = True
    head_hidden: Annotated[tuple[int, ...], AtLeast(1)] = (64,)  # hidden widths of the MLP after the candidate
    head_dropout: Annotated[float, Fraction()] = 0.0  # after each of its hidden layers

    def __post_init__(self) -> None:
        """Refuses a column that has two parts to play."""
        super().__post_init__()
        named = self.sequences + self.target
        if len(set(named)) != len(named):
            raise UserError(f"sequences = {list(self.sequences)}, target = {list(self.target)}: no column twice")


@dataclasses.dataclass(frozen=True)
class TokenPlan:
    """What the tokens of a layer are; all parts depend on sizes alone."""

    positions: np.ndarray  # [n] int, places among the tokens that the longest row has
    visible: np.ndarray  # [n, n] bool: whether the token of the row may see the token of the column
    longest: int  # tokens of the longest row

    def take_last(self) -> "TokenPlan":
        """Returns the plan whose last token alone looks at all tokens."""
        return dataclasses.replace(self, visible=self.visible[-1:])


def plan_tokens(context: int, lengths: tuple[int, ...], given: tuple[int, ...]) -> TokenPlan:
    """Plans context tokens, then the given first events of each sequence, then the candidate.

    Args:
      context: number of context tokens.
      lengths: most events of each sequence.
      given: how many of them the model computes; the others are absent in every row.
    """
    positions, first = list(range(context)), context
    for length, own in zip(lengths, given, strict=True):
        positions += range(first, first + own)
        first += length
    places = np.array([*positions, first])
    visible = (places[None, :] < context) | ((places[None, :] <= places[:, None]) & (places[:, None] >= context))
    return TokenPlan(places, visible, first + 1)


class HSTULayer(nn.Module):
    """Hierarchical sequential transduction unit, see the module's docstring.

    Attributes:
      heads: number of heads.
      query_width: width of a head's queries and keys.
      value_width: width of a head's values and gates.
      position_bias: whether scores have a bias for each difference of positions.
      dtype: dtype of the matrix products; parameters and scores are float32.
    """

    heads: int
    query_width: int
    value_width: int
    position_bias: bool
    dtype: Any = jnp.float32

    is_layer: ClassVar[bool] = True

    @nn.compact
    def __call__(self, tokens: jax.Array, present: jax.Array, plan: TokenPlan) -> jax.Array:
        """Applies the layer to the last tokens, as many as the plan lets look.

        Args:
          tokens: [B, n, d], any float dtype.
          present: [B, n] float32, 1 if the token is present.
          plan: which of the last q tokens may see which of the n.

        Returns:
          [B, q, d] in `dtype`.
        """
        looking = plan.visible.shape[0]
        normal = LayerNorm((2,), TOKEN_NORM_EPSILON, name="input_norm")(tokens).astype(self.dtype)
        own = normal[:, -looking:]
        query, key = self._heads(own, self.query_width, "query"), self._heads(normal, self.query_width, "key")
        gate, value = self._heads(own, self.value_width, "gate"), self._heads(normal, self.value_width, "value")
        scores = jnp.einsum("bqhd,bnhd->bhqn", query, key).astype(jnp.float32)
        if self.position_bias:
            table = self.param("position_bias", nn.initializers.normal(0.02), (2 * plan.longest - 1,))
            scores += table[plan.positions[-looking:, None] - plan.positions[None] + plan.longest - 1]
        seen = present[:, None, None, :] * jnp.asarray(plan.visible, jnp.float32)
        weights = (nn.silu(scores) * seen / plan.longest).astype(self.dtype)
        mixed = jnp.einsum("bhqn,bnhd->bqhd", weights, value)
        mixed = LayerNorm((2,), MIXED_NORM_EPSILON, name="mixed_norm")(mixed.reshape(*mixed.shape[:2], -1))
        mixed = mixed * gate.reshape(mixed.shape)
        width = tokens.shape[2]
        kernel = output_initializer()
        made = nn.Dense(width, use_bias=False, dtype=self.dtype, kernel_init=kernel, name="output")(mixed)
        return tokens[:, -looking:].astype(self.dtype) + made

    def _heads(self, tokens: jax.Array, width: int, name: str) -> jax.Array:
        """Maps [B, n, d] to SiLU of [B, n, heads, width]."""
        made = nn.Dense(self.heads * width, dtype=self.dtype, kernel_init=output_initializer(), name=name)(tokens)
        return nn.silu(made).reshape(*tokens.shape[:2], self.heads, width)


class HSTU(nn.Module):
    """Context, events and candidate as tokens, layers over them, and an MLP of the candidate; logits."""

    options: HSTUOptions
    shape: ModelShape

    @property
    def short_sequences(self) -> tuple[str, ...]:
        """Sequences whose absent last tokens can be left out, see `layers.short_sequences`."""
        return () if self.options.embedding_norm else self.options.sequences

    @nn.compact
    def __call__(self, inputs: ModelInputs, *, train: bool) -> Outputs:
        """Computes the logits; see `ModelInputs` and `Outputs`."""
        options, shape = self.options, self.shape
        tokens, present, plan = self._make_tokens(inputs, train)
        for index in range(options.layers):
            layer = HSTULayer(
                options.heads,
                options.query_width,
                options.value_width,
                options.position_bias,
                shape.dtype,
                name=f"layer_{index}",
            )
            tokens = layer(tokens, present, plan.take_last() if index == options.layers - 1 else plan)
        head = output_layers(options.head_hidden, options, shape, dropout=options.head_dropout)
        return Outputs(head(tokens[:, 0], train=train), {})

    def _make_tokens(self, inputs: ModelInputs, train: bool) -> tuple[jax.Array, jax.Array, TokenPlan]:
        """Returns tokens [B, n, d] in the compute dtype, which are present [B, n] float32, and their plan."""
        options, shape = self.options, self.shape
        vectors, mask = prepared_embeddings(inputs, options, shape, train=train), inputs.token_mask
        always = jnp.ones((vectors.shape[0], 1), jnp.float32)
        taken = {name: self._places(name) for name in options.sequences + options.target}
        others = np.setdiff1d(np.arange(shape.tokens), [place for places in taken.values() for place in places])
        parts, there = [take_vectors(vectors, others.astype(np.int32))], [mask[:, others]]
        if shape.dense_features:
            parts.insert(0, dense_vector(inputs.dense, options, shape, train=train)[:, None])
            there.insert(0, always)
        context = jnp.concatenate(parts, axis=1)
        tokens = [self._map("context", context)] if context.shape[1] else []
        lengths = tuple(len(taken[name]) for name in options.sequences)
        given = tuple(kept_length(length) for length in lengths)
        for name, count in zip(options.sequences, given, strict=True):
            places = np.array(taken[name][:count], np.int32)
            tokens.append(self._map(f"events_{name}", take_vectors(vectors, places)))
            there.append(mask[:, places])
        tokens.append(self._make_candidate(vectors, [place for name in options.target for place in taken[name]]))
        present = jnp.concatenate([*there, always], axis=1)
        return jnp.concatenate(tokens, axis=1), present, plan_tokens(context.shape[1], lengths, given)

    def _make_candidate(self, vectors: jax.Array, places: list[int]) -> jax.Array:
        """Returns the candidate's token, [B, 1, d]."""
        if not places:
            learned = self.param("candidate", nn.initializers.normal(0.02), (self.options.token_width,))
            shape = vectors.shape[0], 1, self.options.token_width
            return jnp.broadcast_to(learned, shape).astype(self.shape.dtype)
        own = take_vectors(vectors, np.array(places, np.int32))
        return self._map("candidate", own.reshape(own.shape[0], 1, -1))

    def _map(self, name: str, vectors: jax.Array) -> jax.Array:
        width, dtype = self.options.token_width, self.shape.dtype
        return nn.Dense(width, use_bias=False, dtype=dtype, kernel_init=output_initializer(), name=name)(vectors)

    def _places(self, column: str) -> list[int]:
        return [place for place, name in enumerate(self.shape.token_columns) if name == column]


def build(options: Mapping[str, Any], shape: ModelShape) -> nn.Module:
    """Builds the model from a config.

    Args:
      options: keys of `HSTUOptions`.
      shape: sizes of inputs and outputs; with sequences or a target, also the column of each token.

    Returns:
      An `HSTU`.

    Raises:
      UserError: an unknown option, a value out of range, an option without effect, or a column without tokens.
    """
    built = build_options(HSTUOptions, options, shape)
    for option, names, least in (("sequences", built.sequences, 2), ("target", built.target, 1)):
        for name in names:
            count = shape.token_columns.count(name)
            if count < least:
                known = "one token" if count else "no token of its own"
                kind = (
                    f'a sequence column with config.embeddings.fields.{name}.pooling = "none"'
                    if least > 1
                    else ("a feature column of the schema")
                )
                raise UserError(f"{OPTIONS}.{option}: column {name!r} has {known}; name {kind}")
    return HSTU(built, shape)

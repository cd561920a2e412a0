"""The transformer block over a row's event sequence: rotary positions, QK-norm, and the row's other tokens as context.

Little is known about section 3.3.2 of arXiv 2512.09200. Our choices:

- Norms are before the attention and the feed-forward layer (pre-norm).
- Context tokens are additional keys and values without a position ("attention"), or scale the hidden units of the
  feed-forward layer by 2 * sigmoid of a linear map of the tokens, which starts at 1 ("gate", a diagonal form of
  InterFormer's personalised feed-forward layer, arXiv 2411.09852, section 4.3).
- Absent events are not used as keys and stay zero.
"""

import dataclasses
from typing import Annotated, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lattice.network.dense import Dense, LayerSettings
from lattice.network.norms import normalise, normalise_and_activate
from wukong_jax.layers.mlp import HIDDEN_INITIALIZER, output_initializer
from wukong_jax.ranges import AtLeast

Context = Literal["none", "attention", "gate", "both"]
_ABSENT = -1e9  # score of absent events; finite, so that the softmax of a row without events is defined


@dataclasses.dataclass(frozen=True)
class TransformerOptions:
    """`config.model.options.transformer`."""

    # number of attention heads; must divide the width into heads of an even number of coordinates
    heads: Annotated[int, AtLeast(1)] = 2
    qk_norm: bool = True  # norm over each head's coordinates of queries and keys
    ffn_multiple: Annotated[int, AtLeast(1)] = 2  # hidden units of the feed-forward layer divided by the width
    context: Context = "both"  # how the non-sequence tokens are used


def rotate_by_position(values: jax.Array, positions: np.ndarray, base: float = 10_000.0) -> jax.Array:
    """Applies rotary positions, so that dot products depend on differences of positions.

    Coordinates j and j + d / 2 are rotated by the angle position * base^(-2 j / d).

    Args:
      values: [B, L, H, d] float, d even.
      positions: [L] int.
      base: base of the wavelengths.

    Returns:
      The same shape and dtype.
    """
    half = values.shape[-1] // 2
    angles = positions[:, None] * base ** (-np.arange(half) / half)  # [L, d / 2]
    cosine, sine = (jnp.asarray(f(angles), jnp.float32)[None, :, None, :] for f in (np.cos, np.sin))
    first, second = values[..., :half].astype(jnp.float32), values[..., half:].astype(jnp.float32)
    turned = jnp.concatenate([first * cosine - second * sine, first * sine + second * cosine], axis=-1)
    return turned.astype(values.dtype)


class TransformerBlock(nn.Module):
    """Computes S' = S + attention(norm S, context), then S' + ffn(norm S').

    Attributes:
      options: see `TransformerOptions`.
      settings: settings of all layers.
      positions: positions of the sequences' tokens, from 0 in each sequence.
      untied: whether each domain has a separate feed-forward layer.
    """

    options: TransformerOptions
    settings: LayerSettings
    positions: tuple[int, ...]
    untied: bool

    is_layer: ClassVar[bool] = True

    @nn.compact
    def __call__(self, events: jax.Array, present: jax.Array, context: jax.Array, domain: jax.Array) -> jax.Array:
        """Applies the block.

        Args:
          events: [B, L, D], zeros where absent.
          present: [B, L] float32, 1 if the event is present.
          context: [B, n, D], the row's other tokens.
          domain: [B] int32.

        Returns:
          [B, L, D] in the settings' dtype, zeros where absent.
        """
        kind, there = self.settings.norm, present[:, :, None].astype(self.settings.dtype)
        attended = self._attend(normalise(kind, events, "attention_norm"), present, context, domain)
        events = (events + attended) * there
        fed = self._feed_forward(normalise(kind, events, "ffn_norm"), context, domain)
        return (events + fed) * there

    def _attend(self, events: jax.Array, present: jax.Array, context: jax.Array, domain: jax.Array) -> jax.Array:
        batch, length, width = events.shape
        with_context = self.options.context in ("attention", "both")
        positions = np.array(self.positions)
        query = self._heads(events, "query", domain)
        key, value = self._heads(events, "key", domain), self._heads(events, "value", domain)
        size = query.shape[-1] ** -0.5
        turned = rotate_by_position(query, positions), rotate_by_position(key, positions)
        scores = jnp.einsum("blhd,bmhd->bhlm", *turned).astype(jnp.float32) * size
        scores = jnp.where(present[:, None, None, :] > 0, scores, _ABSENT)
        if with_context:
            context = normalise(self.settings.norm, context, "context_norm")
            context_key = self._heads(context, "context_key", domain)
            context_scores = jnp.einsum("blhd,bmhd->bhlm", query, context_key).astype(jnp.float32) * size
            scores = jnp.concatenate([scores, context_scores], axis=3)
            value = jnp.concatenate([value, self._heads(context, "context_value", domain)], axis=1)
        shares = jax.nn.softmax(scores, axis=3).astype(value.dtype)
        mixed = jnp.einsum("bhlm,bmhd->blhd", shares, value).reshape(batch, length, width)
        return Dense(width, self.settings, name="attention_output")(mixed, domain)

    def _heads(self, tokens: jax.Array, name: str, domain: jax.Array) -> jax.Array:
        """Maps [B, n, D] to [B, n, H, D / H]; normalises queries and keys over each head's coordinates."""
        width, heads = tokens.shape[-1], self.options.heads
        made = Dense(width, self.settings, name=name)(tokens, domain)
        made = made.reshape(*tokens.shape[:2], heads, width // heads)
        if self.options.qk_norm and not name.endswith("value"):
            made = normalise(self.settings.norm, made, f"{name}_norm")
        return made

    def _feed_forward(self, events: jax.Array, context: jax.Array, domain: jax.Array) -> jax.Array:
        width = events.shape[-1]
        units = self.options.ffn_multiple * width
        hidden = Dense(units, self.settings, self.untied, HIDDEN_INITIALIZER, name="ffn_hidden")(events, domain)
        hidden = normalise_and_activate(self.settings.norm, hidden, "ffn_hidden_norm")
        if self.options.context in ("gate", "both"):
            flat = context.reshape(context.shape[0], -1)
            gate = Dense(units, self.settings, kernel_init=output_initializer(0.0), name="ffn_gate")(flat, domain)
            hidden = hidden * (2 * jax.nn.sigmoid(gate))[:, None, :]
        return Dense(width, self.settings, self.untied, name="ffn_output")(hidden, domain)

"""The transformer block over a row's event sequence: rotary positions, QK-norm, and the row's other tokens as context.

Of arXiv 2512.09200, section 3.3.2, little is known. Our choices: pre-norm; context tokens join as keys and values
without a position ("attention"), or scale the hidden units of the feed-forward layer by 2 * sigmoid of a linear map of
them, which starts at 1 ("gate", a diagonal form of InterFormer's personalised feed-forward layer, arXiv 2411.09852,
section 4.3); absent events are no keys, and stay zero.
"""

import dataclasses
from typing import Annotated, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lattice.network.dense import Dense, LayerSettings
from lattice.network.norms import normalise, normalise_and_activate
from wukong_jax.layers.mlp import HIDDEN_INITIALIZER, output_initializer
from wukong_jax.ranges import AtLeast

Context = Literal["none", "attention", "gate", "both"]
_ABSENT = -1e9  # a score; finite, so that a row without any event has a softmax


@dataclasses.dataclass(frozen=True)
class TransformerOptions:
    """`config.model.options.transformer`."""

    # attention heads; the width must divide into heads of an even number of coordinates
    heads: Annotated[int, AtLeast(1)] = 2
    qk_norm: bool = True  # norm over each head's coordinates of queries and keys
    ffn_multiple: Annotated[int, AtLeast(1)] = 2  # hidden units of the feed-forward layer over the width
    context: Context = "both"  # where the non-sequence tokens enter


def rotate_by_position(values: jax.Array, positions: np.ndarray, base: float = 10_000.0) -> jax.Array:
    """Rotary positions: coordinates j and j + d / 2 turn by position * base^(-2 j / d), so products see differences.

    Args:
      values: [B, L, H, d], d even.
      positions: [L] int.
      base: of the wavelengths.

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
    """S' = S + attention(norm S, context); S' + ffn(norm S').

    Attributes:
      options: see `TransformerOptions`.
      settings: of all layers.
      positions: of the sequence's tokens, each sequence from 0.
      untied: whether each domain has a feed-forward layer of its own.
    """

    options: TransformerOptions
    settings: LayerSettings
    positions: tuple[int, ...]
    untied: bool

    @nn.compact
    def __call__(self, events: jax.Array, present: jax.Array, context: jax.Array, domain: jax.Array) -> jax.Array:
        """Applies the block.

        Args:
          events: [B, L, D], zeros where absent.
          present: [B, L] float32, 1 = event present.
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
        """[B, n, D] to [B, n, H, D / H]; queries and keys are normed over each head's coordinates."""
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
            flat = context.reshape(len(context), -1)
            gate = Dense(units, self.settings, kernel_init=output_initializer(0.0), name="ffn_gate")(flat, domain)
            hidden = hidden * (2 * jax.nn.sigmoid(gate))[:, None, :]
        return Dense(width, self.settings, self.untied, name="ffn_output")(hidden, domain)

"""DWFB: the sequence's tokens, flattened, with the others through factorization machine and linear compression.

The block is Wukong's interaction layer (`wukong_jax.layers.factorization_machine`) with Lattice's norms, precision and
untied weights: X' = norm(concat(FMB(X), LCB(X)) + residual + read), FMB(X) = reshape(MLP(norm(flatten(FM(X))))), and
`read` what Extended Context Storage adds. With layer norm, biases, no hidden layer and nothing to read it computes what
that layer computes.

Extended Context Storage (arXiv 2512.09200, section 3.3.2) keeps the tokens that entered every layer's block, and each
later layer reads them through a linear map over tokens that starts at zero. No formula is published; this is ours.
"""

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from lattice.network.dense import Dense, LayerSettings, multiply
from lattice.network.norms import normalise, normalise_and_activate
from wukong_jax.errors import UserError
from wukong_jax.layers.factorization_machine import pair_tokens
from wukong_jax.layers.mlp import HIDDEN_INITIALIZER, output_initializer

# FM values go with the square of the tokens' size, so their mean square with its fourth power.
_FM_EPSILON = 1e-12


@dataclasses.dataclass(frozen=True)
class FusionOptions:
    """`config.model.options.fusion`."""

    fmb_tokens: int = 8  # n_F, tokens that the factorization machine block makes
    lcb_tokens: int = 8  # n_L, tokens that the linear compression block makes
    rank: int = 8  # k, columns of the FM's projection
    hidden: tuple[int, ...] = (128,)  # hidden widths of the MLP after the FM

    def __post_init__(self) -> None:
        """Refuses sizes below 1."""
        for name in ("fmb_tokens", "lcb_tokens", "rank"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} = {getattr(self, name)}: at least 1")
        if any(width < 1 for width in self.hidden):
            raise UserError(f"hidden = {list(self.hidden)}: every width at least 1")


def map_tokens(tokens: jax.Array, kernel: jax.Array, settings: LayerSettings) -> jax.Array:
    """Mixes tokens linearly, the same for each coordinate: [B, D, N] and [N, M] to [B, D, M]."""
    batch, width, count = tokens.shape
    return multiply(tokens.reshape(batch * width, count), kernel, settings).reshape(batch, width, -1)


class FusionBlock(nn.Module):
    """One DWFB layer; tokens are last inside, as in Wukong's.

    Attributes:
      options: see `FusionOptions`.
      settings: of all layers.
      untied: whether each domain has an MLP of its own after the FM.
    """

    options: FusionOptions
    settings: LayerSettings
    untied: bool

    @nn.compact
    def __call__(self, tokens: jax.Array, stored: Sequence[jax.Array], domain: jax.Array) -> jax.Array:
        """Applies the block.

        Args:
          tokens: [B, D, N].
          stored: what Extended Context Storage holds, each [B, D, N_i]; none for a block that reads nothing.
          domain: [B] int32.

        Returns:
          [B, D, n_F + n_L] in the settings' dtype.
        """
        options, settings = self.options, self.settings
        count, made_tokens = tokens.shape[2], options.fmb_tokens + options.lcb_tokens
        before_lcb = (0, 0), (options.fmb_tokens, 0)
        lcb = jnp.pad(self.param("lcb", output_initializer(), (count, options.lcb_tokens)), before_lcb)
        if count == made_tokens:
            made = tokens.astype(settings.dtype) + map_tokens(tokens, lcb, settings)
        else:
            residual = self.param("residual", output_initializer(), (count, made_tokens))
            made = map_tokens(tokens, residual + lcb, settings)
        made = made + jnp.pad(self._interact(tokens, domain), ((0, 0), (0, 0), (0, options.lcb_tokens)))
        if stored:
            history = jnp.concatenate(stored, axis=2)
            kernel = self.param("read", nn.initializers.zeros_init(), (history.shape[2], made_tokens))
            made = made + map_tokens(history, kernel, settings)
        if settings.norm == "layer":
            return normalise(settings.norm, made, "norm", axis=1)
        return normalise_and_activate(settings.norm, made, "norm", axis=1)

    def _interact(self, tokens: jax.Array, domain: jax.Array) -> jax.Array:
        """FMB: [B, D, N] to [B, D, n_F]."""
        options, settings = self.options, self.settings
        batch, width, count = tokens.shape
        projection = self.param("projection", output_initializer(), (count, options.rank))
        pairs = pair_tokens(map_tokens(tokens, projection, settings), tokens.astype(settings.dtype))
        hidden = normalise(settings.norm, pairs.reshape(batch, -1), "fm_norm", epsilon=_FM_EPSILON)
        for index, units in enumerate(options.hidden):
            layer = Dense(units, settings, self.untied, HIDDEN_INITIALIZER, name=f"hidden_{index}")
            hidden = normalise_and_activate(settings.norm, layer(hidden, domain), f"hidden_{index}_norm")
        made = Dense(width * options.fmb_tokens, settings, self.untied, name="output")(hidden, domain)
        return made.reshape(batch, width, options.fmb_tokens)

"""The fusion block (DWFB): a Wukong layer over the flattened sequence tokens and all other tokens.

The block is Wukong's interaction layer (`wukong_jax.layers.interaction`) with Lattice's norms, precision and untied
weights: X' = norm(concat(FMB(X), LCB(X)) + residual + read), where FMB(X) = reshape(MLP(norm(flatten(FM(X))))) and
`read` is the term of Extended Context Storage. With layer norm, biases, no hidden layer and no stored tokens, it
computes the same as Wukong's layer.

Extended Context Storage (arXiv 2512.09200, section 3.3.2) stores the input tokens of every layer's block, and each
later layer reads them through a linear map over tokens that starts at zero. No formula is published; this one is ours.
"""

import dataclasses
from functools import partial
from typing import Annotated, Literal

import jax

from lattice.network.dense import Dense, LayerSettings, map_tokens_in_precision
from lattice.network.norms import normalise, normalise_and_activate
from wukong_jax.layers.interaction import InteractionLayer, pair_tokens
from wukong_jax.layers.mlp import HIDDEN_INITIALIZER, output_initializer
from wukong_jax.layers.norms import KeptRMSNorm
from wukong_jax.layers.short_sequences import KeptTokens
from wukong_jax.ranges import AtLeast

# FM values are quadratic in the tokens' size, so their mean square is proportional to its fourth power.
_FM_EPSILON = 1e-12


@dataclasses.dataclass(frozen=True)
class FusionOptions:
    """`config.model.options.fusion`."""

    fmb_tokens: Annotated[int, AtLeast(1)] = 8  # n_F, output tokens of the factorization machine block
    lcb_tokens: Annotated[int, AtLeast(1)] = 8  # n_L, output tokens of the linear compression block
    rank: Annotated[int, AtLeast(1)] = 8  # k, columns of the FM's projection
    hidden: Annotated[tuple[int, ...], AtLeast(1)] = (128,)  # hidden widths of the MLP after the FM
    # after the block's norm, which Wukong's layers do not have; not with layer norm
    output_activation: Literal["swish", "none"] = "swish"


def build_fusion_block(
    options: FusionOptions,
    settings: LayerSettings,
    untied: bool,
    name: str | None = None,
    kept: KeptTokens | None = None,
    kept_stored: KeptTokens | None = None,
) -> InteractionLayer:
    """Builds a DWFB layer, which is called with tokens [B, D, N], the stored tokens of earlier layers, and the domain.

    Args:
      options: see `FusionOptions`.
      settings: settings of all layers.
      untied: whether each domain has a separate MLP after the FM.
      name: name of the submodule.
      kept: the tokens that the layer is given, if the others are zero; None: all. Not with layer norm.
      kept_stored: the same for the stored tokens.

    Returns:
      An `InteractionLayer`.
    """
    return InteractionLayer(
        options.fmb_tokens,
        options.lcb_tokens,
        partial(_interact, options, settings, untied),
        partial(_apply_norm, options, settings),
        partial(map_tokens_in_precision, settings=settings),
        pads_kernel=True,
        kept=kept,
        kept_stored=kept_stored,
        name=name,
    )


def _apply_norm(options: FusionOptions, settings: LayerSettings, made: jax.Array) -> jax.Array:
    plain = settings.norm == "layer" or options.output_activation == "none"
    norm = normalise if plain else normalise_and_activate
    return norm(settings.norm, made, "norm", axis=1)


def _interact(
    options: FusionOptions,
    settings: LayerSettings,
    untied: bool,
    layer: InteractionLayer,
    tokens: jax.Array,
    domain: jax.Array,
) -> jax.Array:
    """Applies the FMB, [B, D, N] to [B, D, n_F]."""
    batch, width, count = tokens.shape
    kept = layer.kept
    projection = layer.param("projection", output_initializer(), (kept.total if kept else count, options.rank))
    projection = kept.take(projection) if kept else projection
    pairs = pair_tokens(map_tokens_in_precision(tokens, projection, settings), tokens.astype(settings.dtype))
    pairs = pairs.reshape(batch, -1)
    if kept is None or kept.are_all:
        hidden = normalise(settings.norm, pairs, "fm_norm", epsilon=_FM_EPSILON)
    else:
        hidden = KeptRMSNorm(kept, _FM_EPSILON, name="fm_norm")(pairs)
    for index, units in enumerate(options.hidden):
        dense = Dense(units, settings, untied, HIDDEN_INITIALIZER, kept, name=f"hidden_{index}")
        hidden = normalise_and_activate(settings.norm, dense(hidden, domain), f"hidden_{index}_norm")
        kept = None
    made = Dense(width * options.fmb_tokens, settings, untied, kept=kept, name="output")(hidden, domain)
    return made.reshape(batch, width, options.fmb_tokens)

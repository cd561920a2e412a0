"""Ablations of the Lattice network, on planted portfolios with informative histories.

Command:   python scripts/compare_variants.py --config=lattice/ablations --seeds=0,1,2
           --variants=base,float8,bfloat16,heads_tied,fusion_untied,ffn_untied,no_qk_norm,layer_norm,biases,no_storage,
           pooled,history_pooled,correlation --workdir=runs/lattice_ablations --output=docs/results/lattice_ablations
Data:      generated: 300,000 training rows of 2 domains x 2 objectives; user, item, 4 fields, 2 numbers and the last 8
           items, whose match with the item is half of the variance of the true logit
Expected:  docs/results/lattice_ablations; three minutes per run on one CPU core
"""

from typing import Any

from ml_collections import ConfigDict

from wukong_jax.config import start_config
from wukong_jax.errors import UserError

from . import one_pass

BATCH, ROWS = 512, 300_000
# Changes of the network's options, by variant.
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "float8": {"float8": "row"},
    "bfloat16": {},
    "heads_tied": {"untied": ()},
    "fusion_untied": {"untied": ("fmb", "heads")},
    "ffn_untied": {"untied": ("ffn", "heads")},
    "no_qk_norm": {"transformer": {"qk_norm": False}},
    "layer_norm": {"norm": "layer"},
    "biases": {"biases": True},
    "no_storage": {"context_storage": False},
    "pooled": {"sequence_fusion": "pooled"},
    "history_pooled": {"sequences": ()},
    "correlation": {},
}


def get_config(variant: str = "base") -> ConfigDict:
    """Returns the config of a variant."""
    if variant not in VARIANTS:
        raise UserError(f"variant {variant!r}: {', '.join(VARIANTS)}")
    config = start_config()
    config.name = f"Lattice on planted portfolios, {variant}"
    config.data.factory = "planted_portfolios"
    config.data.options = plant()
    one_pass.set_tables(config)
    config.embeddings.pooling = "mean"
    config.model.factory = "lattice.network:build"
    config.model.options = {
        "layers": 2,
        "sequences": ("history",),
        "fusion": {"fmb_tokens": 4, "lcb_tokens": 4, "rank": 4, "hidden": (64,)},
        "head_hidden": 32,
    } | VARIANTS[variant]
    if variant != "history_pooled":
        config.embeddings.fields = ConfigDict({"history": {"pooling": "none"}})
    if variant == "bfloat16":
        config.training.compute_dtype = "bfloat16"
    if variant == "correlation":
        config.loss.factory = "lattice.losses:build"
        config.loss.options = {"correlation_weight": 0.1}
    one_pass.set_training(config, rows=ROWS, batch=BATCH, warmup_steps=20)
    return config


def plant() -> ConfigDict:
    """Returns the options of the generated data."""
    planted = ConfigDict()
    planted.domains = 2
    planted.objectives = ("click", "like")
    planted.base_rates = (0.25, 0.1)
    planted.fields = 4
    planted.values_per_field = 20
    planted.sequence_length = 8
    planted.sequence_share = 0.5
    planted.train_rows = ROWS
    planted.validation_rows = 20_000
    planted.test_rows = 100_000
    return planted

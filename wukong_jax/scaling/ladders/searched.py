"""Ladders for a search over structures: sizes that keep the orders of interactions, and each model's choices.

A model's sizes differ in widths alone, never in what decides which orders it can represent: all DCNv2 have three cross
layers, all xDeepFM two layers of the CIN, all Wukong two or three layers as their structure says. Otherwise a curve
shows where it crosses an order of the data and not what compute buys. The sizes were chosen by counted training FLOPs
alone, with nine fields and width 16 about 0.03 to 5 MFLOP, in steps of three to five.

The choices are those that the papers and public implementations differ in. The usual alternative, the default of
`planted_ladders`, comes first.
"""

from collections.abc import Mapping
from typing import Any

from wukong_jax.scaling.ladders.ladder import DLRM_NORMS, WIDTH, Ladder, Size

Choice = Mapping[str, Mapping[str, Any]]

MLP_NORMS: Choice = {"none": {}, "layer": {"mlp_norm": "layer"}, "batch": {"mlp_norm": "batch"}}
_EMBEDDING_NORMS: Choice = {"none": {}, "embeddings": {"embedding_norm": True}}


def _static(rank: int) -> dict[str, Any]:
    return {"fm": "static", "rank": rank}


WUKONG_STRUCTURES: Mapping[str, Choice] = {
    "fm": {
        "static 8": _static(8),
        "static 4": _static(4),
        "static 16": _static(16),
        "full": {"fm": "full", "rank": None},
        "attentive 8": {"fm": "attentive", "rank": 8},
    },
    "layers": {"2": {"layers": 2}, "1": {"layers": 1}, "3": {"layers": 3}},
    "fm norm": {"on": {}, "off": {"fm_norm": False}},
    "fmb": {"relu": {}, "linear": {"fmb_hidden": ()}},
    "mlp norm": MLP_NORMS,
}


def _wukong(tokens: int, hidden: int) -> dict[str, Any]:
    return {"fmb_tokens": tokens, "lcb_tokens": tokens, "fmb_hidden": (hidden,), "head_hidden": (hidden,)}


def _ladder(model: str, structures: Mapping[str, Choice], sizes: Mapping[str, Any], **parts: Any) -> Ladder:
    norms, width = parts.get("norms", _EMBEDDING_NORMS), parts.get("width", WIDTH)
    steps = tuple(Size(name, options) for name, options in sizes.items())
    return Ladder(f"wukong_jax.models.{model}:build", steps, norms, width, structures)


SEARCHED: Mapping[str, Ladder] = {
    "Wukong": _ladder(
        "wukong",
        WUKONG_STRUCTURES,
        {
            "xs": _wukong(2, 16),
            "s": _wukong(4, 32),
            "m": _wukong(8, 64),
            "l": _wukong(8, 256),
            "xl": _wukong(16, 320),
        },
        norms={"token": {"norm": "token"}, "flat": {"norm": "flat"}, "none": {"norm": "none"}},
    ),
    "DLRM": _ladder(
        "dlrm",
        {"mlp norm": MLP_NORMS},
        {
            "xs": {"top_hidden": (16,)},
            "s": {"top_hidden": (64, 32)},
            "m": {"top_hidden": (192, 128)},
            "l": {"top_hidden": (384, 384)},
            "xl": {"top_hidden": (768, 768)},
        },
        norms=DLRM_NORMS,
    ),
    "DCNv2": _ladder(
        "dcnv2",
        {
            "cross layers": {"3": {"cross_layers": 3}, "2": {"cross_layers": 2}, "4": {"cross_layers": 4}},
            "structure": {"stacked": {}, "parallel": {"structure": "parallel"}},
            "mlp norm": MLP_NORMS,
        },
        {
            "xs": {"cross_rank": 4, "deep_hidden": (16,)},
            "s": {"cross_rank": 16, "deep_hidden": (64,)},
            "m": {"cross_rank": 48, "deep_hidden": (128, 64)},
            "l": {"cross_rank": 96, "deep_hidden": (384, 256)},
            "xl": {"cross_rank": None, "deep_hidden": (768, 768)},
        },
    ),
    "DNN": _ladder(
        "dnn",
        {"mlp norm": MLP_NORMS},
        {
            "xs": {"deep_hidden": (24,)},
            "s": {"deep_hidden": (96, 48)},
            "m": {"deep_hidden": (256, 128)},
            "l": {"deep_hidden": (512, 384)},
            "xl": {"deep_hidden": (768, 768)},
        },
    ),
    "FinalMLP": _ladder(
        "finalmlp",
        {"mlp norm": MLP_NORMS, "gates": {"off": {"use_fs": False}, "on": {"use_fs": True, "fs_hidden": (64,)}}},
        {
            "xs": {"mlp1_hidden": (16,), "mlp2_hidden": (16,), "heads": 2},
            "s": {"mlp1_hidden": (64,), "mlp2_hidden": (64,), "heads": 4},
            "m": {"mlp1_hidden": (192, 128), "mlp2_hidden": (128,), "heads": 4},
            "l": {"mlp1_hidden": (384, 384), "mlp2_hidden": (384,), "heads": 8},
            "xl": {"mlp1_hidden": (640, 640), "mlp2_hidden": (640,), "heads": 8},
        },
    ),
    "xDeepFM": _ladder(
        "xdeepfm",
        {"mlp norm": MLP_NORMS},
        {
            "xs": {"cin_maps": (2, 2), "deep_hidden": (16,)},
            "s": {"cin_maps": (4, 4), "deep_hidden": (64, 32)},
            "m": {"cin_maps": (8, 8), "deep_hidden": (192, 128)},
            "l": {"cin_maps": (16, 16), "deep_hidden": (384, 384)},
            "xl": {"cin_maps": (24, 24), "deep_hidden": (640, 640)},
        },
    ),
    # Tokens are cut into as many parts, so each width is a multiple of eight.
    "RankMixer": _ladder(
        "rankmixer",
        {
            "tokens": {"8": {"mixer_tokens": 8}, "4": {"mixer_tokens": 4}, "2": {"mixer_tokens": 2}},
            "blocks": {"2": {"blocks": 2}, "1": {"blocks": 1}, "3": {"blocks": 3}},
            "ratio": {"2": {"ffn_ratio": 2}, "4": {"ffn_ratio": 4}},
        },
        {
            "xs": {"token_width": 8},
            "s": {"token_width": 16},
            "m": {"token_width": 32},
            "l": {"token_width": 64},
            "xl": {"token_width": 112},
        },
    ),
    "TokenMixer": _ladder(
        "tokenmixer",
        {
            "tokens": {"8": {"mixer_tokens": 8}, "4": {"mixer_tokens": 4}, "2": {"mixer_tokens": 2}},
            "blocks": {"2": {"blocks": 2}, "1": {"blocks": 1}, "3": {"blocks": 3}},
            "mlp norm": MLP_NORMS,
        },
        {
            "xs": {"token_width": 8, "ffn_width": 4, "head_hidden": (8,)},
            "s": {"token_width": 16, "ffn_width": 9, "head_hidden": (16,)},
            "m": {"token_width": 32, "ffn_width": 20, "head_hidden": (32,)},
            "l": {"token_width": 64, "ffn_width": 41, "head_hidden": (64,)},
            "xl": {"token_width": 112, "ffn_width": 73, "head_hidden": (112,)},
        },
    ),
    "FM": _ladder("fm", {}, {"only": {}}, norms={"none": {}}, width=1 + WIDTH),
    "logistic regression": _ladder("logistic_regression", {}, {"only": {}}, norms={"none": {}}, width=1),
}

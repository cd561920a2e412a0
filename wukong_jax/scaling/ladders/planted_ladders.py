"""Defines ladders for small data: each model at a few sizes, which can be trained on a laptop, and norm placements.

The sizes were chosen by counted training FLOPs alone, before any of them was trained: with 16 embeddings of width 16,
about 0.05 to 5 MFLOP per row, in steps of about 3x for Wukong and 10x for the other models. The embedding width is the
same for all models and sizes, as in the paper (section 7.1), with exceptions that the models require: logistic
regression reads one number, FM one more than its factors, and AFN+ has two tables, stored side by side in one table of
twice the width.
"""

from collections.abc import Mapping
from typing import Any

from wukong_jax.errors import UserError
from wukong_jax.scaling.ladders.criteo import CRITEO
from wukong_jax.scaling.ladders.ladder import BASELINE_NORMS, DLRM_NORMS, WIDTH, Ladder, Size
from wukong_jax.scaling.ladders.searched import SEARCHED
from wukong_jax.scaling.ladders.wukong import ABLATIONS, DEPTHS, KNOBS


def _ladder(
    model: str, norms: Mapping[str, Mapping[str, Any]] = BASELINE_NORMS, width: int = WIDTH, **sizes: Any
) -> Ladder:
    steps = tuple(Size(name, options) for name, options in sizes.items())
    return Ladder(f"wukong_jax.models.{model}:build", steps, norms, width)


def _wukong(layers: int, tokens: int, rank: int, hidden: int) -> dict[str, Any]:
    return {
        "layers": layers,
        "fmb_tokens": tokens,
        "lcb_tokens": tokens,
        "rank": rank,
        "fmb_hidden": (hidden,),
        "head_hidden": (hidden,),
    }


LADDERS: Mapping[str, Ladder] = {
    "Wukong": _ladder(
        "wukong",
        norms={"token": {"norm": "token"}, "flat": {"norm": "flat"}, "none": {"norm": "none"}},
        xs=_wukong(1, 4, 4, 16),
        s=_wukong(1, 4, 8, 64),
        m=_wukong(2, 8, 8, 128),
        l=_wukong(3, 8, 8, 256),
        xl=_wukong(3, 16, 16, 320),
    ),
    "DLRM": _ladder(
        "dlrm",
        norms=DLRM_NORMS,
        s={"top_hidden": (32,)},
        m={"top_hidden": (256, 256)},
        l={"top_hidden": (768, 768)},
    ),
    "DCNv2": _ladder(
        "dcnv2",
        s={"cross_layers": 2, "cross_rank": 8, "deep_hidden": (16,)},
        m={"cross_layers": 2, "cross_rank": 64, "deep_hidden": (128,)},
        l={"cross_layers": 3, "cross_rank": None, "deep_hidden": (768, 512)},
    ),
    "AutoInt+": _ladder(
        "autoint",
        norms={
            "none": {},
            "embeddings": {"embedding_norm": True},
            "embeddings and attention": {"embedding_norm": True, "attention_norm": True},
        },
        s={"attention_layers": 1, "attention_dim": 8, "deep_hidden": (16,)},
        m={"attention_layers": 2, "attention_dim": 16, "deep_hidden": (192, 192)},
        l={"attention_layers": 3, "attention_dim": 64, "attention_heads": 4, "deep_hidden": (512, 512)},
    ),
    "AFN+": _ladder(
        "afn",
        norms={
            "logarithms and products": {},
            "none": {"log_norm": False, "exp_norm": False},
            "products": {"log_norm": False},
        },
        width=2 * WIDTH,
        s={"log_neurons": 8, "afn_hidden": (16,), "deep_hidden": (16,)},
        m={"log_neurons": 32, "afn_hidden": (128,), "deep_hidden": (128, 128)},
        l={"log_neurons": 64, "afn_hidden": (384, 384), "deep_hidden": (512, 256)},
    ),
    "MaskNet": _ladder(
        "masknet",
        norms={"tokens": {}, "none": {"token_norm": False}, "embeddings": {"embedding_norm": True}},
        s={"structure": "parallel", "block_widths": (16,), "reduction_ratio": 0.02, "head_hidden": (16,)},
        m={"structure": "parallel", "block_widths": (64, 64), "reduction_ratio": 0.2, "head_hidden": (128,)},
        l={"structure": "parallel", "block_widths": (128,) * 4, "reduction_ratio": 0.5, "head_hidden": (256, 256)},
    ),
    "xDeepFM": _ladder(
        "xdeepfm",
        s={"cin_maps": (2,), "deep_hidden": (16,)},
        m={"cin_maps": (8, 8), "deep_hidden": (128, 128)},
        l={"cin_maps": (24, 24, 24), "deep_hidden": (512, 512)},
    ),
    "FinalMLP": _ladder(
        "finalmlp",
        s={"mlp1_hidden": (16,), "mlp2_hidden": (16,), "use_fs": False, "heads": 2},
        m={"mlp1_hidden": (128, 64), "mlp2_hidden": (128,), "use_fs": False, "heads": 4},
        l={"mlp1_hidden": (512, 512), "mlp2_hidden": (512,), "use_fs": False, "heads": 8},
    ),
    "DNN": _ladder(
        "dnn",
        s={"deep_hidden": (32,)},
        m={"deep_hidden": (256, 128)},
        l={"deep_hidden": (768, 768)},
    ),
    "logistic regression": _ladder("logistic_regression", norms={"none": {}}, width=1, only={}),
    "FM": _ladder("fm", norms={"none": {}}, width=1 + WIDTH, only={}),
}


def find_ladder(model: str, ladders: str = "usual") -> Ladder:
    """Returns the ladder with the given name, for example that of a model or one of Wukong's in `wukong.py`.

    Args:
      model: name of the ladder.
      ladders: "usual", or "searched" for those of `searched.py`.

    Raises:
      UserError: there is no such ladder.
    """
    chosen = (SEARCHED,) if ladders == "searched" else (LADDERS, ABLATIONS, KNOBS, DEPTHS, CRITEO)
    for group in chosen:
        if model in group:
            return group[model]
    known = ", ".join(name for group in chosen for name in group)
    raise UserError(f"models: {model!r} has no ladder; known are {known}")

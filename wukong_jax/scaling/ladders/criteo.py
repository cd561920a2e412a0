"""Defines ladders for Criteo Terabyte at the Wukong paper's sizes: 13 dense columns, 26 embeddings of width 128.

Wukong's sizes are five of the paper's grid (appendix A), from its smallest to its largest. For the other models, the
options that vary in the paper's table (their MLPs, and DCNv2's cross layers) are varied around the sizes whose counts
the paper prints.
"""

from collections.abc import Mapping
from typing import Any

from wukong_jax.scaling.ladders.ladder import BASELINE_NORMS, DLRM_NORMS, Ladder, Size

WIDTH = 128
_BOTTOM: Mapping[str, Any] = {"bottom_hidden": (512, 256)}


def _wukong(layers: int, tokens: int, depth: int, width: int) -> Size:
    options = {
        **{"layers": layers, "fmb_tokens": tokens, "lcb_tokens": tokens, "rank": 24},
        **{"fmb_hidden": (width,) * depth, "head_hidden": (width,) * depth},
    }
    return Size(f"l={layers}, n={tokens}, MLP {depth}x{width}", {**options, **_BOTTOM})


def _others(model: str, norms: Mapping[str, Mapping[str, Any]] = BASELINE_NORMS, **sizes: Mapping[str, Any]) -> Ladder:
    steps = tuple(Size(name, {**options, **_BOTTOM}) for name, options in sizes.items())
    return Ladder(f"wukong_jax.models.{model}:build", steps, norms, WIDTH)


CRITEO: Mapping[str, Ladder] = {
    "Wukong (Criteo)": Ladder(
        "wukong_jax.models.wukong:build",
        (
            _wukong(1, 8, 1, 512),
            _wukong(2, 8, 2, 1024),
            _wukong(2, 16, 3, 1024),
            _wukong(4, 16, 3, 1024),
            _wukong(4, 16, 4, 2048),
        ),
        {"token": {"norm": "token"}, "flat": {"norm": "flat"}, "none": {"norm": "none"}},
        WIDTH,
    ),
    "DLRM (Criteo)": _others(
        "dlrm",
        DLRM_NORMS,
        s={"top_hidden": (512, 512)},
        m={"top_hidden": (2048, 2048)},
        l={"top_hidden": (4096,) * 4},
    ),
    "DCNv2 (Criteo)": _others(
        "dcnv2",
        s={"structure": "stacked", "cross_layers": 1, "cross_rank": 64, "deep_hidden": (512,)},
        m={"structure": "stacked", "cross_layers": 2, "deep_hidden": (2048,) * 4},
        l={"structure": "stacked", "cross_layers": 4, "deep_hidden": (2048,) * 4},
    ),
}

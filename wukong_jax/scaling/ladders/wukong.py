"""Defines ladders of Wukong variants: ablations of its parts, growth of single options, and depth against orders.

The base is in the middle of the main ladder (`planted_ladders.py`), so that a change can either lower or raise the
loss.
"""

from collections.abc import Mapping
from typing import Any

from wukong_jax.scaling.ladders.ladder import Ladder, Size

_FACTORY = "wukong_jax.models.wukong:build"
_BASE: Mapping[str, Any] = {
    "layers": 2,
    "fmb_tokens": 8,
    "lcb_tokens": 8,
    "rank": 8,
    "fmb_hidden": (128,),
    "head_hidden": (128,),
}


def _alone(*, norm: str = "token", without: str = "", **changes: Any) -> Ladder:
    """A ladder of one size and one norm: the base with changed options, and without one if given."""
    options = {name: value for name, value in _BASE.items() if name != without} | changes
    return Ladder(_FACTORY, (Size("m", options),), {norm: {"norm": norm}})


# The paper's ablations (section 7.3, figure 4), and additional ones.
ABLATIONS: Mapping[str, Ladder] = {
    "Wukong (base)": _alone(),
    "no FMB": _alone(use_fmb=False),
    "no LCB": _alone(use_lcb=False),
    "no residual": _alone(use_residual=False),
    "no LCB, no residual": _alone(use_lcb=False, use_residual=False),
    "full FM": _alone(fm="full", without="rank"),
    "attentive FM": _alone(fm="attentive"),
    "norm over all": _alone(norm="flat"),
    "no norm": _alone(norm="none"),
    "no FM norm": _alone(fm_norm=False),
}


def _grown(*names: str, steps: tuple[int, ...] = (2, 4)) -> Ladder:
    """A ladder that multiplies some options of the base by each step; for MLPs, the widths are multiplied."""

    def grow(value: Any, step: int) -> Any:
        return tuple(width * step for width in value) if isinstance(value, tuple) else value * step

    sizes = [
        Size(f"x{step}", {name: grow(value, step) if name in names else value for name, value in _BASE.items()})
        for step in steps
    ]
    return Ladder(_FACTORY, tuple(sizes), {"token": {"norm": "token"}})


# Growing single options, as in section 3.8 (figure 5 grows them separately, and three together).
KNOBS: Mapping[str, Ladder] = {
    "base": _grown(steps=(1,)),
    "layers": _grown("layers"),
    "n_F": _grown("fmb_tokens"),
    "n_L": _grown("lcb_tokens"),
    "k": _grown("rank"),
    "MLP": _grown("fmb_hidden", "head_hidden"),
    "n_F, n_L and k": _grown("fmb_tokens", "lcb_tokens", "rank"),
    "all": _grown(*_BASE, steps=(2,)),
}


def _deep(layers: int, *, linear: bool) -> Ladder:
    """A ladder of one size with `layers` interaction layers and otherwise equal options.

    If linear, the model is a polynomial of the embeddings, of order at most 2**layers. Norms are always off, since a
    norm is not a polynomial.
    """
    hidden = () if linear else (64,)
    options = {
        **{"layers": layers, "fmb_tokens": 8, "lcb_tokens": 8, "rank": 8, "fm_norm": False},
        **{"fmb_hidden": hidden, "head_hidden": hidden},
    }
    return Ladder(_FACTORY, (Size(f"l={layers}", options),), {"none": {"norm": "none"}})


# Tests whether a stack of l layers reaches order 2**l and no higher order (section 3.3).
DEPTHS: Mapping[str, Ladder] = {
    f"{kind}, {layers} layer{'s' if layers > 1 else ''}": _deep(layers, linear=kind == "linear")
    for kind in ("linear", "ReLU")
    for layers in (1, 2, 3)
}

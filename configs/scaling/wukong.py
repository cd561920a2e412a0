"""Ablations of Wukong's parts, and scaling of its single sizes, on planted clicks.

Command:   python scripts/scaling_curve.py --config=scaling/wukong:ablations --workdir=runs/scaling_ablations
           --output=docs/results/scaling_ablations
           `:knobs` doubles one size at a time, some together, and all (docs/results/scaling_knobs); for a factor of
           four, add --config.models.layers="('x2','x4')" and the like
Data:      as in configs/scaling/planted.py, factorized
Expected:  docs/results/scaling_ablations; one minute per unit on one CPU core (`:knobs` one to four)
"""

from ml_collections import ConfigDict

from wukong_jax.errors import UserError
from wukong_jax.scaling.ladders.wukong import ABLATIONS, KNOBS

from . import planted


def get_config(question: str = "ablations") -> ConfigDict:
    """Returns the config of the sweep of a question: "ablations" or "knobs"."""
    ladders = {"ablations": ABLATIONS, "knobs": KNOBS}
    if question not in ladders:
        raise UserError(f"question {question!r}: {', '.join(ladders)}")
    config = planted.get_config()
    config.name = f"planted clicks, Wukong's {question}"
    some = ("x2",) if question == "knobs" else ()  # a factor of four would take three times as long
    config.models = {name: some if name != "base" else () for name in ladders[question]}
    config.reference, config.baseline = next(iter(ladders[question])), ""  # the base
    config.search.initial_scales = (0.02,)
    return config

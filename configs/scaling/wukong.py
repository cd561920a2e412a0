"""Wukong's parts and sizes on planted clicks: what each part is worth, and which size to grow.

Command:   python scripts/scaling_curve.py --config=scaling/wukong:ablations --workdir=runs/scaling_ablations
           --output=docs/results/scaling_ablations
           `:knobs` doubles one size at a time, some together, and all (docs/results/scaling_knobs); four times as
           large: --config.models.layers="('x2','x4')" and likewise
Data:      as configs/scaling/planted.py, factorized
Expected:  docs/results/scaling_ablations; a minute a unit on one CPU core (`:knobs` one to four)
"""

from ml_collections import ConfigDict

from wukong_jax.errors import UserError
from wukong_jax.scaling.ladders.wukong import ABLATIONS, KNOBS

from . import planted


def get_config(question: str = "ablations") -> ConfigDict:
    """The sweep of a question: "ablations" or "knobs"."""
    ladders = {"ablations": ABLATIONS, "knobs": KNOBS}
    if question not in ladders:
        raise UserError(f"question {question!r}: {', '.join(ladders)}")
    config = planted.get_config()
    config.name = f"planted clicks, Wukong's {question}"
    some = ("x2",) if question == "knobs" else ()  # four times as large would take three times as long
    config.models = {name: some if name != "base" else () for name in ladders[question]}
    config.reference, config.baseline = next(iter(ladders[question])), ""  # the base
    config.search.initial_scales = (0.02,)
    return config

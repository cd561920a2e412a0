"""Scaling curves on real rows: Frappe and census-income, loss against FLOPs, for Wukong and three of the baselines.

Command:   python scripts/scaling_curve.py --config=scaling/real:frappe --workdir=runs/scaling_frappe
           --output=docs/results/scaling_real/frappe --config.run.data.path=FOLDER
           `:census` is census-income, the mean of its two objectives; FOLDER as for public/frappe_wukong and
           public/census_income, whose L2, rate's shape and number of passes every model gets; none stops early
Expected:  docs/results/scaling_real; half a minute to a minute and a half a unit on one CPU core, some 70 units each.
           Both sets are small: curves are flat, or turn where models overfit
"""

from ml_collections import ConfigDict

from wukong_jax.errors import UserError

from ..public import census_income, frappe_wukong
from . import planted

RUNS = {"frappe": frappe_wukong, "census": census_income}


def get_config(data: str = "frappe") -> ConfigDict:
    """The sweep of a data set: "frappe" or "census"."""
    if data not in RUNS:
        raise UserError(f"data {data!r}: {', '.join(RUNS)}")
    config = planted.get_config()
    config.name = f"{data}, loss against compute"
    config.data_name, config.generated = data, False
    config.models = {"Wukong": ("xs", "s", "m"), "DLRM": ("s", "m"), "DCNv2": ("s", "m"), "DNN": ("s", "m")}
    config.search.rates, config.search.initial_scales = (0.25, 0.5, 1.0, 2.0, 4.0), (0.02,)
    run = RUNS[data].get_config()
    run.training.checkpoint_every_steps = 400
    run.training.early_stop_patience = 0  # the same examples for every model and seed
    config.run = run
    if data == "census":  # a few dense columns: the usual bottom MLP would cost more than the small models
        config.options = {"bottom_hidden": (32,)}
    return config

"""Scaling curves (loss against FLOPs) on Frappe and census-income, for Wukong and three baselines.

Command:   python scripts/scaling_curve.py --config=scaling/real:frappe --workdir=runs/scaling_frappe
           --output=docs/results/scaling_real/frappe --config.run.data.path=FOLDER
           `:census` is census-income, with the mean of its two objectives; FOLDER as for public/frappe_wukong and
           public/census_income. All models have the L2, schedule and number of passes of these configs, and none stops
           early
Expected:  docs/results/scaling_real; 30 to 90 seconds per unit on one CPU core, with about 70 units each. Both sets are
           small, so curves are flat, or rise again where models overfit
"""

from ml_collections import ConfigDict

from wukong_jax.errors import UserError

from ..public import census_income, frappe_wukong
from . import planted

RUNS = {"frappe": frappe_wukong, "census": census_income}


def get_config(data: str = "frappe") -> ConfigDict:
    """Returns the config of the sweep on a data set: "frappe" or "census"."""
    if data not in RUNS:
        raise UserError(f"data {data!r}: {', '.join(RUNS)}")
    config = planted.get_config()
    config.name = f"{data}, loss against compute"
    config.data_name, config.generated = data, False
    config.models = {"Wukong": ("xs", "s", "m"), "DLRM": ("s", "m"), "DCNv2": ("s", "m"), "DNN": ("s", "m")}
    config.search.rates, config.search.initial_scales = (0.25, 0.5, 1.0, 2.0, 4.0), (0.02,)
    run = RUNS[data].get_config()
    run.training.checkpoint_every_steps = 400
    run.training.early_stop_patience = 0  # so that all models and seeds see the same examples
    config.run = run
    if data == "census":  # with few dense columns, the usual bottom MLP would cost more than the small models
        config.options = {"bottom_hidden": (32,)}
    return config

"""Does a stack of l interaction layers reach order 2**l, and stop there? Data of one order against 1, 2 and 3 layers.

Command:   python scripts/scaling_curve.py --config=configs/scaling_orders.py:4 --workdir=runs/scaling_orders_4
           --output=docs/results/scaling_orders_4
           `:2`, `:4` and `:8` are data whose logit holds that order alone
Data:      generated: 8 categorical fields of 4 values, so that order 8 has one term and its values recur
Expected:  no kept result yet. The argument (section 3.3 of the paper) is about polynomials: it speaks of the linear
           stacks, whose layers have neither norm nor ReLU; those with ReLU stand beside them
"""

from pathlib import Path

from ml_collections import ConfigDict

from wukong_jax.config import load_config_module
from wukong_jax.scaling.wukong_ladders import DEPTHS


def get_config(order: str = "2") -> ConfigDict:
    """The sweep on data of one order: "2", "4" or "8"."""
    config = load_config_module(Path(__file__).with_name("scaling_planted.py")).get_config()
    config.name = f"planted clicks of order {order}"
    config.data_name = f"order {order}"
    config.models = {name: () for name in DEPTHS}
    # Without norms a product of 8 embeddings of scale 0.02 is 1e-14: such a stack could not start.
    config.search.initial_scales = (0.1, 0.3, 1.0)
    planted = config.run.data.planted
    planted.fields, planted.values_per_field = 8, 4
    planted.orders, planted.order_shares = (int(order),), (1.0,)
    planted.interactions = {"2": 12, "4": 8}.get(order, 1)
    return config

"""Tests whether l interaction layers reach order 2**l and no more: 1 to 3 layers on data up to order 2, 4 and 8.

Command:   python scripts/scaling_curve.py --config=scaling/orders:4 --workdir=runs/scaling_orders_4
           --output=docs/results/scaling_orders/up_to_4
           `:2`, `:4` and `:8` set the highest order of the data
Data:      generated: 8 categorical fields of 4 values with one coordinate each, so that order 8 has one term and its
           values recur. Data of a highest order include the lower powers of two, because order 8 alone would give no
           initial gradient. The best possible loss of functions of 2 or 4 fields at a time is in W/data/report.json
           ("order_floors")
Expected:  docs/results/scaling_orders; 15 minutes each on one CPU core. The argument in section 3.3 of the paper is
           about polynomials, so it applies to linear stacks, whose layers have neither norm nor ReLU; stacks with ReLU
           are trained for comparison
"""

from ml_collections import ConfigDict

from wukong_jax.errors import UserError
from wukong_jax.scaling.ladders.wukong import DEPTHS

from . import planted

ROWS = 600_000
ORDERS = {"2": (2,), "4": (2, 4), "8": (2, 4, 8)}


def get_config(highest: str = "2") -> ConfigDict:
    """Returns the config of the sweep on data up to order "2", "4" or "8"."""
    if highest not in ORDERS:
        raise UserError(f"order {highest!r}: {', '.join(ORDERS)}")
    config = planted.get_config()
    config.name = f"planted clicks up to order {highest}"
    config.data_name = f"up to order {highest}"
    config.models = {name: () for name in DEPTHS}
    config.reference = config.baseline = ""
    # Without norms, a product of 8 embeddings of scale 0.02 is about 1e-14, which gives no useful gradient.
    config.search.initial_scales = (0.1, 0.3)
    # Small models without norms need higher learning rates than those of configs/scaling/planted.py.
    config.run.optimizer.learning_rate, config.run.embeddings.optimizer.learning_rate = 8e-3, 2e-2
    steps = -(-ROWS // config.run.training.batch_size)
    config.run.optimizer.warmup_steps, config.run.optimizer.decay_steps = steps // 20, steps - steps // 20
    config.run.training.evaluate_every_steps = steps // 5
    rows = config.run.data.options
    rows.train_rows = ROWS
    rows.fields, rows.values_per_field = 8, 4
    rows.orders = ORDERS[highest]
    rows.order_shares = (1 / len(rows.orders),) * len(rows.orders)
    return config

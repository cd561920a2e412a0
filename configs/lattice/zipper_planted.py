"""Conversions delayed by days, under drift: Zipper's mixed windows compared with waiting, and with early labels.

Command:   python scripts/compare_windows.py --config=lattice/zipper_planted --objective=conversion
           --windows=6h,1d,7d --policies=zipper,6h,1d,7d --seeds=0,1,2 --workdir=runs/zipper
           --output=docs/results/lattice_zipper
           `:DEGREES/ROWS` sets the drift and the number of test rows, which follow the last training impression at
           28,000 per day (default: "90/150000"; see docs/results/lattice_zipper for others).
           The command writes the rows of each policy from the impressions of this config; train.py would train on
           impressions with their final labels, which are not known in time
Data:      generated: 1,000,000 impressions in 36 days, of which one in five converts within 7 days, after 24 hours on
           average (exponential, with a different scale for each row). The planted weights rotate by DEGREES until the
           last test row. Rows are trained on in the order of emission
Expected:  docs/results/lattice_zipper
"""

from ml_collections import ConfigDict

from wukong_jax.config import start_config

from . import one_pass

BATCH = 1024
STEPS = -(-805_001 // BATCH)  # all policies have the rows that the longest window has emitted by the cut-off


def get_config(choice: str = "90/150000") -> ConfigDict:
    """Returns the config of impressions and network; "DEGREES/ROWS" as described above."""
    degrees, _, rows = choice.partition("/")
    config = start_config()
    config.name = "Zipper on planted delays"
    config.data.factory = "planted_portfolios"
    config.data.options = plant(float(degrees), int(rows))
    config.data.shuffle = False  # in the order of emission
    one_pass.set_tables(config)
    config.model.factory = "lattice.network:build"
    config.model.options = {
        "layers": 2,
        "fusion": {"fmb_tokens": 8, "lcb_tokens": 8, "rank": 8, "hidden": (128,)},
        "head_hidden": 32,
    }
    config.optimizer.learning_rate = 2e-3
    # Constant, as a model that follows a drift must keep learning, except for a decay in the last twentieth. Without
    # it, the mean prediction is off by a tenth, even without drift and delays, which hides the effect of windows.
    config.optimizer.schedule = "linear"
    config.optimizer.decay_steps = STEPS // 20
    config.optimizer.hold_steps = STEPS - STEPS // 20
    config.training.batch_size = BATCH
    config.training.epochs = 1
    config.training.log_every_steps = 100
    config.training.early_stop_metric = "log_loss"
    return config


def plant(drift_degrees: float, test_rows: int) -> ConfigDict:
    """Returns the options of the generated impressions and conversions."""
    planted = ConfigDict()
    planted.domains = 1
    planted.objectives = ("conversion",)
    planted.base_rates = (0.2,)
    planted.fields = 6
    planted.values_per_field = 30
    planted.days = 42.0 * (1_020_000 + test_rows) / 1_170_000  # the same rows per day for any test_rows
    planted.drift_degrees = drift_degrees
    planted.delayed_objectives = ("conversion",)
    planted.delay_hours = (24.0,)
    planted.longest_window_hours = 168.0
    planted.train_rows = 1_000_000
    planted.validation_rows = 20_000
    planted.test_rows = test_rows
    return planted

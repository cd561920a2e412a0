"""A small scaling curve: two models at three sizes on planted clicks, with the search that every sweep has.

Command:   python scripts/scaling_curve.py --config=scaling/small --workdir=runs/scaling_small
Data:      generated: as configs/scaling/planted.py, factorized, a fifth of the rows
Expected:  a report.html with curves of Wukong and DLRM in a few minutes on 2 CPU cores; far too few rows to rank them
"""

from ml_collections import ConfigDict

from . import planted


def get_config() -> ConfigDict:
    """The small sweep."""
    config = planted.get_config()
    config.name = "planted clicks, small"
    config.models = {"Wukong": ("xs", "s", "m"), "DLRM": ()}
    config.seeds = (0,)
    config.search.rates = (1.0, 2.0)
    config.search.initial_scales = (0.02,)
    config.run.data.options.train_rows = 200_000
    config.run.data.options.validation_rows = 20_000
    config.run.data.options.test_rows = 50_000
    steps = -(-200_000 // config.run.training.batch_size)
    config.run.optimizer.warmup_steps = steps // 10
    config.run.optimizer.decay_steps = steps - steps // 10
    config.run.training.evaluate_every_steps = steps // 4
    return config

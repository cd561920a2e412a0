"""A small scaling curve: two models with three sizes on planted clicks, including the search of every sweep.

Command:   python scripts/scaling_curve.py --config=scaling/small --workdir=runs/scaling_small
Data:      generated: as in configs/scaling/planted.py, factorized, with a fifth of the rows
Expected:  report.html with curves of Wukong and DLRM in a few minutes on 2 CPU cores; far too few rows to rank them
"""

from ml_collections import ConfigDict

from . import planted


def get_config() -> ConfigDict:
    """Returns the config of the small sweep."""
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

"""A tiny search for a Wukong model with at most a fifth of the FLOPs of a hand-made one, on planted clicks.

Command:   python scripts/search_sketch.py --config=lattice/sketch_small --workdir=runs/sketch_small
Data:      generated: 8 categorical fields of 10 values; interactions of orders 1 and 2
Expected:  sketch.json, best_config.py and sketch.png in one or two minutes on 2 CPU cores, mostly spent compiling. With
           one seed and so few rows and trials, it only shows that the search works
"""

from ml_collections import ConfigDict

from lattice.sketch.space import start_sketch_config


def get_config() -> ConfigDict:
    """Returns the config of the hand-made run with the search space."""
    config = start_sketch_config()
    config.name = "Wukong on planted clicks, searched"
    config.data.factory = "planted_clicks"
    planted = ConfigDict()
    planted.fields = 8
    planted.values_per_field = 10
    planted.orders = (1, 2)
    planted.order_shares = (0.3, 0.7)
    planted.train_rows = 60_000
    planted.validation_rows = 20_000
    planted.test_rows = 20_000
    config.data.options = planted
    config.embeddings.width = 16
    config.embeddings.initial_scale = 0.02
    config.embeddings.optimizer.kind = "lazy_adam"
    config.embeddings.optimizer.learning_rate = 1e-2
    config.model.options = {
        "layers": 2,
        "fmb_tokens": 16,
        "lcb_tokens": 16,
        "rank": 16,
        "fmb_hidden": (128,),
        "head_hidden": (128,),
        "norm": "none",
    }
    config.optimizer.learning_rate = 5e-3
    config.training.batch_size = 1024
    config.training.epochs = 1
    config.training.log_every_steps = 50
    config.training.evaluate_every_steps = 15
    config.search.space = {
        "embeddings": {"width": {"low": 4, "high": 16, "step": 4}},
        "model": {
            "options": {
                "layers": {"choices": (1, 2)},
                "fmb_tokens": {"low": 4, "high": 16, "step": 4, "also": ("model.options.lcb_tokens",)},
                "rank": {"low": 4, "high": 16, "step": 4},
                "fmb_hidden": {"0": {"low": 16, "high": 128, "step": 16, "log": True}},
                "head_hidden": {"0": {"low": 16, "high": 128, "step": 16, "log": True}},
            }
        },
    }
    config.search.trials = 6
    config.search.startup_trials = 3
    config.search.rungs = (0.5,)
    config.search.budget_flops = 295e3  # a fifth of the hand-made run's
    return config

"""Lattice Filter on planted portfolios with useless columns: Pareto layers compared with a weighted sum.

Command:   python scripts/compare_variants.py --config=lattice/filter_planted --variants=full --seeds=0,1,2
           --workdir=runs/filter/trained --output=docs/results/lattice_filter/full
           for each method (pareto, weighted_sum) and budget (10, the number of useful columns, and 6):
           python scripts/filter_features.py --workdir=runs/filter/trained/full/seed_0 --budget=10 --method=pareto
           --output=runs/filter/pareto_10 --write_rows
           python scripts/compare_variants.py --config=lattice/filter_planted --seeds=0,1,2
           --variants=pareto_10,weighted_sum_10,pareto_6,weighted_sum_6 --workdir=runs/filter/trained
           --output=docs/results/lattice_filter
Data:      generated: 400,000 training rows of 2 domains x 3 objectives (base rates 0.25, 0.1, 0.02); user, item, 6
           fields and 2 numbers are useful, 8 fields and 2 numbers are not
Expected:  docs/results/lattice_filter
"""

from ml_collections import ConfigDict

from wukong_jax.config import start_config

from . import one_pass

BATCH, ROWS = 1024, 400_000


def get_config(rows: str = "full") -> ConfigDict:
    """Returns the config for all columns ("full"), or for the columns of runs/filter/<rows>/data."""
    config = start_config()
    config.name = f"Filter on planted portfolios, {rows}"
    if rows == "full":
        config.data.factory = "planted_portfolios"
        config.data.options = plant()
    else:
        config.data.factory, config.data.path = "blocks", f"runs/filter/{rows}/data"
    one_pass.set_tables(config)
    config.model.factory = "lattice.network:build"
    config.model.options = {
        "layers": 2,
        "fusion": {"fmb_tokens": 8, "lcb_tokens": 8, "rank": 8, "hidden": (64,)},
        "head_hidden": 32,
    }
    one_pass.set_training(config, rows=ROWS, batch=BATCH, warmup_steps=30)
    return config


def plant() -> ConfigDict:
    """Returns the options of the generated data."""
    planted = ConfigDict()
    planted.domains = 2
    planted.objectives = ("click", "like", "buy")
    planted.base_rates = (0.25, 0.1, 0.02)
    planted.fields = 6
    planted.useless_fields = 8
    planted.dense_fields = 2
    planted.useless_dense_fields = 2
    planted.values_per_field = 30
    planted.train_rows = ROWS
    planted.validation_rows = 60_000
    planted.test_rows = 100_000
    return planted

"""A Lattice network on planted portfolios: 4 domains x 3 objectives, histories that matter, Bayes log loss known.

Command:   python scripts/train.py --config=configs/lattice_planted.py --workdir=runs/lattice_planted
           `:conflict` opposes one domain to the others: what raises a click there lowers it here
Data:      generated: 300,000 training rows a domain; user, item, 6 fields, 2 numbers and the user's last 12 items;
           objectives of base rates 0.25, 0.1 and 0.05 whose true logits correlate by 0.8 between domains and 0.6 within
Expected:  no kept result yet
"""

from ml_collections import ConfigDict

from wukong_jax.config import start_config

BATCH, ROWS = 2048, 1_200_000


def get_config(data: str = "related") -> ConfigDict:
    """One network for all portfolios: "related" domains, or "conflict"."""
    config = start_config()
    config.name = f"Lattice on planted portfolios, {data}"
    config.data.format = "planted_portfolios"
    config.data.portfolios = plant(data)

    config.embeddings.width = 16
    config.embeddings.initial_scale = 0.02
    config.embeddings.optimizer.kind = "lazy_adam"
    config.embeddings.optimizer.learning_rate = 5e-3
    config.embeddings.fields = ConfigDict({"history": {"pooling": "none"}})

    config.model.factory = "lattice.network:build"
    config.model.options = {
        "layers": 2,
        "sequences": ("history",),
        "fusion": {"fmb_tokens": 8, "lcb_tokens": 8, "rank": 8, "hidden": (128,)},
        "head_hidden": 32,
        "untied": ("heads",) if data == "related" else ("ffn", "fmb", "heads"),
    }
    config.optimizer.learning_rate = 3e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 30
    config.optimizer.decay_steps = -(-ROWS // BATCH) - 30
    config.training.batch_size = BATCH
    config.training.epochs = 1
    config.training.log_every_steps = 50
    config.training.early_stop_metric = "log_loss"
    return config


def plant(data: str) -> ConfigDict:
    """The generated rows."""
    if data not in ("related", "conflict"):
        raise ValueError(f"data {data!r}: related, conflict")
    planted = ConfigDict()
    planted.domains = 4
    planted.objectives = ("click", "like", "buy")
    planted.base_rates = (0.25, 0.1, 0.05)
    planted.domain_relatedness = 0.8
    planted.objective_relatedness = 0.6
    planted.opposed_domains = (3,) if data == "conflict" else ()
    planted.fields = 6
    planted.values_per_field = 30
    planted.sequence_length = 12
    planted.sequence_share = 0.25
    planted.train_rows = ROWS
    planted.validation_rows = 80_000
    planted.test_rows = 200_000
    return planted

"""Scaling curves on planted clicks: Wukong and baselines over two orders of magnitude of compute.

Command:   python scripts/scaling_curve.py --config=scaling/planted --workdir=runs/scaling_planted
           --output=docs/results/scaling_planted
           `:field_aware` is the second structure, with two sizes; `:control` has no order above 2.
Data:      generated: 12 categorical fields of 8 values; interactions of orders 1, 2 and 4, with 12 terms each of orders
           2 and 4. The data was chosen before the first curve so that order 4 can be learned in one pass over a million
           rows. With 10 values, 16 fields and 24 terms of 4 coordinates, the largest DLRM did not learn it (0.054 nats
           above the Bayes loss, while ignoring order 4 costs 0.057); with the chosen data it ends 0.007 above
Expected:  docs/results/scaling_planted; a unit takes one to five minutes on one CPU core, the sweep several hours
"""

from ml_collections import ConfigDict

from wukong_jax.errors import UserError
from wukong_jax.scaling.sweep.config import start_sweep_config

BATCH, ROWS = 2048, 1_000_000
STEPS = -(-ROWS // BATCH)


def get_config(data: str = "factorized") -> ConfigDict:
    """Returns the config of the sweep on a data set: "factorized", "field_aware" or "control"."""
    if data not in ("factorized", "field_aware", "control"):
        raise UserError(f"data {data!r}: factorized, field_aware, control")
    config = start_sweep_config()
    config.name = f"planted clicks, {data}"
    config.data_name = data
    config.generated = True
    names = ["Wukong", "DLRM", "DCNv2", "AutoInt+", "AFN+", "MaskNet", "xDeepFM", "FinalMLP", "DNN", "FM"]
    sizes = {"field_aware": ("s", "m"), "control": ("s",)}.get(data, ())
    config.models = {name: sizes if name != "FM" else () for name in names} | {"logistic regression": ()}
    config.reference, config.baseline = "Wukong", "DLRM"

    run = config.run
    run.data.factory = "planted_clicks"
    run.data.options = planted_clicks(data)
    run.embeddings.optimizer.kind = "lazy_adam"
    run.embeddings.optimizer.learning_rate = 5e-3
    run.optimizer.learning_rate = 2e-3
    run.optimizer.warmup_steps = STEPS // 20
    run.optimizer.schedule = "cosine"
    run.optimizer.decay_steps = STEPS - STEPS // 20
    run.training.batch_size = BATCH
    run.training.epochs = 1
    run.training.log_every_steps = 50
    run.training.evaluate_every_steps = STEPS // 5
    run.training.checkpoint_every_steps = 400
    return config


def planted_clicks(data: str) -> ConfigDict:
    """Returns the options of the generated data."""
    planted = ConfigDict()
    planted.fields = 12
    planted.values_per_field = 8
    planted.interactions = 12
    planted.latent_width = 1
    planted.structure = "field_aware" if data == "field_aware" else "factorized"
    planted.orders = (1, 2) if data == "control" else (1, 2, 4)
    planted.order_shares = (0.3, 0.7) if data == "control" else (0.2, 0.4, 0.4)
    planted.train_rows = ROWS
    planted.validation_rows = 50_000
    planted.test_rows = 200_000
    return planted

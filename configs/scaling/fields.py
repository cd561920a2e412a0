"""When does Wukong's compute pay? Sweeps over generated clicks of 12 to 128 fields, few or many pairs that interact.

Command:   for CELL in 12 32 64 128; do for ROW in pairs groups all; do
           python scripts/scaling_curve.py --config=scaling/fields:$CELL.$ROW --workdir=runs/fields/$CELL.$ROW
           done; done
           python scripts/map_sweeps.py --sweeps=runs/fields --output=docs/results/scaling_fields
Data:      generated: fields of 8 values; 0.3 of the logit's variance is of order 1, the rest of order 2. `pairs`: as
           many random pairs as there are fields; `groups`: all pairs within groups of four fields; `all`: all pairs.
           A field's vector has 4 numbers and is shared by its pairs, so `all` is of rank 4 and `pairs` of nearly full
           rank
Expected:  not run yet. Four models of the same embedding width at three sizes after eight trials each, two seeds, one
           pass over 400,000 rows
"""

from ml_collections import ConfigDict

from wukong_jax.errors import UserError
from wukong_jax.scaling.sweep.config import start_sweep_config

FIELDS, DENSITIES = (12, 32, 64, 128), ("pairs", "groups", "all")
ROWS, BATCH = 400_000, 512
STEPS = -(-ROWS // BATCH)


def get_config(cell: str = "12.pairs") -> ConfigDict:
    """Returns the sweep of a cell of the map, FIELDS.DENSITY."""
    number, _, density = cell.partition(".")
    if number not in map(str, FIELDS) or density not in DENSITIES:
        raise UserError(f"cell {cell!r}: one of {FIELDS}, a dot, and one of {', '.join(DENSITIES)}; such as 64.pairs")
    fields = int(number)
    config = start_sweep_config()
    config.name = f"planted clicks, {fields} fields, {density}"
    config.data_name = f"{fields} fields, {density}"
    config.generated = True
    config.ladders = "searched"
    config.models = {name: ("xs", "s", "m") for name in ("Wukong", "DLRM", "DCNv2", "DNN")}
    config.reference = "Wukong"
    config.seeds = (0, 1)
    config.search.rates, config.search.initial_scales = (0.25, 0.5, 1.0, 2.0, 4.0), (0.02, 0.1, 0.3)
    config.search.structure.trials, config.search.structure.at_once = 8, 2
    config.search.structure.size = "s"

    run = config.run
    run.data.factory = "planted_clicks"
    run.data.options = planted_clicks(fields, density)
    run.embeddings.width = 16
    run.embeddings.optimizer.kind = "lazy_adam"
    run.embeddings.optimizer.learning_rate = 5e-3
    run.optimizer.learning_rate = 2e-3
    run.optimizer.warmup_steps = STEPS // 20
    run.optimizer.schedule = "cosine"
    run.optimizer.decay_steps = STEPS - STEPS // 20
    run.training.batch_size = BATCH
    run.training.epochs = 1
    run.training.log_every_steps = 100
    run.training.evaluate_every_steps = STEPS // 4
    run.training.checkpoint_every_steps = STEPS
    return config


def planted_clicks(fields: int, density: str) -> ConfigDict:
    """Returns the options of the generated data."""
    planted = ConfigDict()
    planted.fields, planted.values_per_field, planted.latent_width = fields, 8, 4
    planted.orders, planted.order_shares = (1, 2), (0.3, 0.7)
    planted.interactions = {"pairs": fields, "groups": fields // 4 * 6, "all": fields * (fields - 1) // 2}[density]
    if density == "groups":
        planted.groups = fields // 4
    planted.train_rows, planted.validation_rows, planted.test_rows = ROWS, 50_000, 100_000
    return planted

"""Scaling curves on three million real rows (which flights were late), after the same search of structures for all.

Command:   python scripts/convert_flights.py --input=flights-3m.parquet --output=data/flights.parquet
           python scripts/scaling_curve.py --config=scaling/flights --workdir=runs/scaling_flights
           --config.run.data.path=data/flights.parquet
           Two at a time share everything: --shard=0/2 and --shard=1/2. `:small` is a first look at two models with a
           tenth of the steps
Data:      see public/flights. Rates fall to 0.3 of themselves after each evaluation (twice a pass) at which the
           validation loss has not fallen, and a model is trained until that happens three times in a row, at most
           twelve passes: one rule for all. The state with the lowest loss is tested
Expected:  not run yet. A trial of the search has 8,000 steps; every model has 24 of them, then its rates at five sizes
"""

from ml_collections import ConfigDict

from wukong_jax.errors import UserError
from wukong_jax.scaling.sweep.config import start_sweep_config

from ..public import flights

MODELS = ("Wukong", "DLRM", "DCNv2", "DNN", "FinalMLP", "xDeepFM", "FM", "logistic regression")
PASSES, BATCH = 12, 512
STEPS_A_PASS = flights.TRAINING_ROWS // BATCH


def get_config(part: str = "all") -> ConfigDict:
    """Returns the config of the sweep: "all", or "small" for a first look."""
    if part not in ("all", "small"):
        raise UserError(f"part {part!r}: all, small")
    config = start_sweep_config()
    config.name, config.data_name = "flights, loss against compute", "flights"
    config.ladders = "searched"
    config.models = {name: () for name in MODELS}
    config.reference = "Wukong"
    config.search.rates, config.search.initial_scales = (0.25, 0.5, 1.0, 2.0, 4.0), (0.02, 0.1, 0.3)
    config.search.steps = 8000
    config.search.structure.trials = 24
    config.search.structure.size = "m"
    config.search.structure.at_once = 4
    config.search.structure.weight_decays = (0.0, 1e-3, 1e-2)

    config.run = flights.get_config()
    run = config.run
    run.training.epochs = PASSES
    run.training.evaluate_every_steps = STEPS_A_PASS // 2
    run.training.early_stop_patience = 3
    run.training.plateau_factor = 0.3  # no plan of steps, because models need different numbers
    run.optimizer.schedule, run.optimizer.decay_steps = "constant", 0
    run.optimizer.warmup_steps = STEPS_A_PASS // 20
    if part == "small":
        config.models = {"Wukong": ("xs", "s"), "DLRM": ("s", "m")}
        config.seeds = (0,)
        config.search.structure.trials, config.search.structure.at_once, config.search.steps = 6, 2, 800
        run.training.epochs, run.training.early_stop_patience = 1, 0
        run.training.plateau_factor = 1.0
    return config

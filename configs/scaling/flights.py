"""Scaling curves on three million real rows (which flights were late), after the same search of structures for all.

Command:   python scripts/convert_flights.py --input=flights-3m.parquet --output=data/flights.parquet
           python scripts/scaling_curve.py --config=scaling/flights:first --workdir=runs/scaling_flights_first
           --config.run.data.path=data/flights.parquet
           Two at a time share everything: --shard=0/2 and --shard=1/2
Data:      see public/flights. `:first` gives each model ten trials of 2,000 steps, then trains it for three passes at
           four sizes with one seed; after three passes validation losses still fall, so it ranks models that had the
           same number of examples. `:all` has 24 trials of 8,000 steps and trains until validation stops falling: rates
           fall to 0.3 of themselves after each evaluation (twice a pass) at which the loss has not fallen, and a model
           ends when that happens three times in a row, or after twelve passes. The state with the lowest loss is tested
Expected:  `:first` is not whole yet (Wukong's larger sizes and DNN's largest are missing), so no result is kept. Test
           log loss by MFLOP so far, one seed (2026-11-28): logistic regression 0.4535, FM 0.3501; RankMixer 0.04:
           0.3910, 0.16: 0.3621, 0.62: 0.3404, 2.4: 0.3277; DNN 0.02: 0.3717, 0.11: 0.3511, 0.42: 0.3337; DCNv2 0.04:
           0.3466, 0.14: 0.3235, 0.41: 0.3117, 1.4: 0.3082; DLRM 0.01: 0.3208, 0.03: 0.3170, 0.20: 0.3164, 0.98:
           0.3166; Wukong 0.47: 0.3111, 0.62: 0.3098. Trials of 2,000 steps chose 32 to 64 times the base rate for DLRM
           from 0.03 MFLOP on; that is not why it stops falling there (at 0.20 MFLOP its validation loss is 0.3185, at
           8 and 16 times the base rate 0.3187 and 0.3183). `:all` was not run
"""

from ml_collections import ConfigDict

from wukong_jax.errors import UserError
from wukong_jax.scaling.sweep.config import start_sweep_config

from ..public import flights

MODELS = ("Wukong", "DLRM", "DCNv2", "RankMixer", "DNN", "FinalMLP", "xDeepFM", "FM", "logistic regression")
FIRST_MODELS, FIRST_SIZES = MODELS[:5], ("xs", "s", "m", "l")
BATCH = 512
STEPS_A_PASS = flights.TRAINING_ROWS // BATCH


def get_config(part: str = "all") -> ConfigDict:
    """Returns the config of the sweep: "all", or "first" for three passes, one seed and a small search."""
    if part not in ("all", "first"):
        raise UserError(f"part {part!r}: all, first")
    config = start_sweep_config()
    config.name, config.data_name = "flights, loss against compute", "flights"
    config.ladders = "searched"
    config.reference = "Wukong"
    config.search.rates, config.search.initial_scales = (0.25, 0.5, 1.0, 2.0, 4.0), (0.02, 0.1, 0.3)
    config.search.structure.size = "m"
    config.search.structure.weight_decays = (0.0, 1e-3, 1e-2)

    config.run = flights.get_config()
    training, optimizer = config.run.training, config.run.optimizer
    training.evaluate_every_steps = STEPS_A_PASS // 2
    if part == "first":
        config.models = {name: FIRST_SIZES for name in FIRST_MODELS} | {"FM": (), "logistic regression": ()}
        config.seeds = (0,)
        config.search.steps = 2000
        config.search.structure.trials, config.search.structure.at_once = 10, 2
        return config  # three passes with the cosine of public/flights
    config.models = {name: () for name in MODELS}
    config.search.steps = 8000
    config.search.structure.trials, config.search.structure.at_once = 24, 4
    training.epochs, training.early_stop_patience, training.plateau_factor = 12, 3, 0.3
    # no plan of steps, because models need different numbers
    optimizer.schedule, optimizer.decay_steps, optimizer.warmup_steps = "constant", 0, STEPS_A_PASS // 20
    return config

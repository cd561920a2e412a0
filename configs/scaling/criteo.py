"""Scaling curves on Criteo Terabyte with the sizes of the Wukong paper, for one or more machines with accelerators.

Command:   python scripts/prepare_data.py --schema=criteo_terabyte --input=FOLDER --output=data/criteo_halves
           --validation_share_of_test=0.5
           FOLDER as for public/criteo_terabyte; half of the last day is used for validation, which the search needs
           python scripts/scaling_curve.py --config=scaling/criteo --workdir=runs/scaling_criteo
           --config.run.data.path=data/criteo_halves --shard=0/4
           on each of four machines with a shared file system, with --shard=0/4 to 3/4 (three search one model each; all
           wait for the searches before training the curves), then with --only_report=true
           --output=docs/results/scaling_criteo for the pictures. A unit trains on all devices of its machine
Data:      see configs/public/criteo_terabyte.py for the rows and the paper's numbers
Expected:  not run, because the data was not available. A unit is one pass over 4.2 G rows at 5 to 600 MFLOP per row. A
           trial of the search, with five to fifteen trials per size, is a tenth of a pass (config.search.steps).
           Compiled ahead of time for 8 H100, the step of the largest Wukong needs 36.6 GiB per GPU, of which 27.5 are
           tables and their state (assuming 21 tables of 7.5 M rows and 5 of 40 M; JAX 0.10.2, 2026-11-25):
           python scripts/compile_for_cluster.py --config=public/criteo_terabyte:wukong --target=h100_1x8
           --schema=criteo_terabyte --table_rows=7500000 --config.model.options.layers=4 and the size's other options
"""

from ml_collections import ConfigDict

from wukong_jax.scaling.ladders.criteo import CRITEO
from wukong_jax.scaling.sweep.config import start_sweep_config

from ..public import criteo_terabyte


def get_config() -> ConfigDict:
    """Returns the config of the sweep over Wukong, DLRM and DCNv2."""
    config = start_sweep_config()
    config.name, config.data_name = "Criteo Terabyte, the paper's sizes", "Criteo Terabyte"
    config.models = {name: () for name in CRITEO}
    config.reference, config.baseline = "Wukong (Criteo)", "DLRM (Criteo)"
    config.search.steps = 3200  # a tenth of a pass, with a tenth of the warm-up
    config.run = criteo_terabyte.get_config()
    config.run.training.evaluate_every_steps = 4000
    return config

"""A Lattice network behind DMT towers on eight devices, against the same on one, and against no towers at all.

Command:   XLA_FLAGS=--xla_force_host_platform_device_count=8 python scripts/compare_variants.py
           --config=lattice/towers --seeds=0,1,2 --workdir=runs/lattice_towers
           --output=docs/results/lattice_towers
           --variants=plain/1,pass_through/1,pass_through/8,compressed/1,compressed/8
           "plain" has no towers, "pass_through" towers that hand on what they look up, "compressed" towers that make
           half as many coordinates of it; then the number of devices: one, or eight as two hosts of four chips
Data:      generated: 200,000 training rows of 4 domains x 3 objectives, as those of configs/lattice/planted.py
Expected:  docs/results/lattice_towers; the eight stand on one CPU and make nothing faster here
"""

from ml_collections import ConfigDict

from wukong_jax.errors import UserError

from . import planted

MODULES = {"pass_through": {"kind": "pass_through"}, "compressed": {"kind": "dlrm", "compression": 2}}
# A history shares its items' table, and so their tower.
TOWERS = [["item", "history", "field_0", "field_1"], ["user", "field_2", "field_3", "field_4", "field_5"]]
BATCH, ROWS = 256, 200_000


def get_config(choice: str = "pass_through/8") -> ConfigDict:
    """A run: "MODULE/DEVICES" as said above."""
    module, _, devices = choice.partition("/")
    if module not in ("plain", *MODULES) or devices not in (("1",) if module == "plain" else ("1", "8")):
        raise UserError(f"choice {choice!r}: plain/1, or pass_through or compressed with 1 or 8")
    config = planted.get_config("related/lattice")
    config.name = f"Lattice behind towers, {choice}"
    config.data.options.train_rows = ROWS
    config.data.options.validation_rows = 20_000
    config.data.options.test_rows = 50_000
    config.optimizer.decay_steps = -(-ROWS // BATCH) - 30
    config.training.batch_size = BATCH
    if module != "plain":
        config.model.options = {
            "towers": TOWERS,
            "module": MODULES[module],
            "over": config.model.factory,
            "over_options": config.model.options,
        }
        config.model.factory = "dmt.model:build"
    config.mesh.hosts, config.mesh.chips = (2, 4) if devices == "8" else (1, 1)
    if devices == "8":
        config.exchange.factory = "dmt.tower_exchange:build"
    return config

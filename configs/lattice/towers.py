"""A Lattice network with DMT towers on eight devices, compared with the same on one device and without towers.

Command:   XLA_FLAGS=--xla_force_host_platform_device_count=8 python scripts/compare_variants.py
           --config=lattice/towers --seeds=0,1,2 --workdir=runs/lattice_towers
           --output=docs/results/lattice_towers
           --variants=plain/1,pass_through/1,pass_through/8,compressed/1,compressed/8
           "plain" has no towers, "pass_through" has towers that return their embeddings unchanged, and "compressed" has
           towers that halve their size. The second part is the number of devices: one, or eight as two hosts of four
           chips
Data:      generated: 200,000 training rows of 4 domains x 3 objectives, as in configs/lattice/planted.py
Expected:  docs/results/lattice_towers; the eight devices are emulated on one CPU, so training does not get faster
"""

from ml_collections import ConfigDict

from wukong_jax.errors import UserError

from . import planted

MODULES = {"pass_through": {"kind": "pass_through"}, "compressed": {"kind": "dlrm", "compression": 2}}
# The history shares the table of items, and must therefore be in the same tower.
TOWERS = [["item", "history", "field_0", "field_1"], ["user", "field_2", "field_3", "field_4", "field_5"]]
BATCH, ROWS = 256, 200_000


def get_config(choice: str = "pass_through/8") -> ConfigDict:
    """Returns the config of "MODULE/DEVICES" as described above."""
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

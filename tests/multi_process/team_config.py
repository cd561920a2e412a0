"""Config of a run that several processes train: every placement of tables, dropout, lazy Adam, L2 and plateaus.

A choice after the file's name takes another kind of run: "reversed" (devices in the opposite order, as meshes that
follow a topology may have it), "bfloat16" (tables with stochastic rounding), "towers" (DMT's, which pass their
embeddings through), "compressed" (towers that compress), "fsdp" (dense weights split over all devices), "lattice" (a
Lattice network of several domains and objectives whose rows are joined with a column), "teacher" (the same, of a replay
of few rows in order) or "batch" (tables not placed).
"""

from ml_collections import ConfigDict

from configs.lattice import planted as lattice_planted
from tests.end_to_end.tiny_config import get_config as get_tiny_config
from tests.multi_process.counted_reads import count_reads
from tests.multi_process.faults import plan_fault
from wukong_jax.sharding import mesh

PLACED = ("replicated", "table_wise", "column_wise", "row_wise")


def get_config(choice: str = "placements") -> ConfigDict:
    plan_fault()
    count_reads()
    lattices = {"lattice": get_lattice, "teacher": get_teacher}
    config = lattices[choice]() if choice in lattices else get_clicks(choice)
    config.name = f"team {choice}"
    config.training.start_at_rate = False
    config.training.log_every_steps = 2
    config.training.evaluate_every_steps = 6
    config.training.checkpoint_every_steps = 4
    return config


def get_clicks(choice: str) -> ConfigDict:
    config = get_tiny_config()
    config.data.options.test_rows = 20_000  # with fewer, a single pair in another order would count
    if choice != "bfloat16":
        config.embeddings.dtype = "float32"  # stochastic rounding draws other numbers under every placement
    if choice == "fsdp":
        config.mesh.fsdp = "all"
        config.mesh.fsdp_min_size = 64
    # Norms over tokens of four numbers, as in the tiny config, amplify a last digit to 1e-5 of AUC in twelve steps, and
    # to 0.01 where towers compress them to two.
    config.embeddings.width = 16
    if choice in ("towers", "compressed"):
        over = config.model.factory
        config.model.options = {
            "towers": [["field_0", "field_1"], ["field_2", "field_3"]],
            "module": {"kind": "pass_through"} if choice == "towers" else {"kind": "dlrm", "compression": 2},
            "over": over,
            "over_options": config.model.options,
        }
        config.model.factory = "dmt.model:build"
        config.exchange.factory = "dmt.tower_exchange:build"
    else:
        config.exchange.options = {"tables": {f"field_{i}": strategy for i, strategy in enumerate(PLACED)}}
    if choice == "reversed":
        find_devices = mesh.find_devices
        mesh.find_devices = lambda: find_devices()[::-1]
    return config


def get_lattice() -> ConfigDict:
    config = lattice_planted.get_config("related/lattice")
    config.data.options.train_rows = 20_000
    config.data.options.validation_rows = 4_000
    config.data.options.test_rows = 20_000
    config.data.join.factory = "tests.outside_parts:build_join"
    config.training.batch_size = 512
    return config


def get_teacher() -> ConfigDict:
    config = get_lattice()
    config.data.options.train_rows, config.data.options.test_rows = 4_000, 1_000
    config.data.options.validation_rows = 1_000
    config.data.shuffle = False
    config.data.join.factory = ""
    config.model.options = {**config.model.options.to_dict(), "layers": 1}  # which compiles in half the time
    return config

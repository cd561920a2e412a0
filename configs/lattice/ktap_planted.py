"""A small student that uses the stored results of a larger teacher: features, soft labels, both, or neither (KTAP).

Command:   python scripts/run_teacher.py --config=lattice/ktap_planted:teacher --workdir=runs/ktap/teacher
           --store=runs/ktap/store --keys=user,item --key=impression
           python scripts/compare_variants.py --config=lattice/ktap_planted --workdir=runs/ktap/students
           --variants=neither,features,labels,both,both@0.75,both@0.5,both@0.25,both@0
           --seeds=0,1,2 --output=docs/results/lattice_ktap
           `@0.5` keeps half of the entries that a student would find, by a hash of the key
Data:      generated: 600,000 training rows of 2 domains x 2 objectives in one day, in time order; the teacher trains on
           one eighth at a time and scores the next, so a student finds no entries for the first eighth, and entries for
           all other training rows and all test rows
Expected:  docs/results/lattice_ktap
"""

from ml_collections import ConfigDict

from wukong_jax.config import start_config
from wukong_jax.errors import UserError

STUDENTS = {"neither": (False, False), "features": (True, False), "labels": (False, True), "both": (True, True)}
ROWS, STORE = "runs/ktap/teacher/data", "runs/ktap/store"  # written by the first command


def get_config(who: str = "teacher") -> ConfigDict:
    """Returns the config of the "teacher" or of a student, "NAME[@SHARE]"."""
    config = start_config()
    config.name = f"KTAP on planted portfolios, {who}"
    config.data.shuffle = False
    config.embeddings.initial_scale = 0.02
    config.embeddings.optimizer.kind = "lazy_adam"
    config.embeddings.optimizer.learning_rate = 5e-3
    config.model.factory = "lattice.network:build"
    config.optimizer.learning_rate = 2e-3
    config.training.batch_size = 1024
    config.training.epochs = 1
    config.training.log_every_steps = 100
    config.training.early_stop_metric = "log_loss"
    if who == "teacher":
        config.data.factory = "planted_portfolios"
        config.data.options = plant()
        config.training.start_at_rate = False  # the rates of all rows include later ones
        return size(config, width=16, layers=2, tokens=8, hidden=256)
    config.data.factory, config.data.path = "blocks", ROWS
    name, _, share = who.partition("@")
    if name not in STUDENTS:
        raise UserError(f"student {name!r}: teacher, {', '.join(STUDENTS)}")
    return teach(size(config, width=4, layers=1, tokens=4, hidden=16), *STUDENTS[name], float(share or 1))


def size(config: ConfigDict, *, width: int, layers: int, tokens: int, hidden: int) -> ConfigDict:
    """Sets the sizes of the network."""
    config.embeddings.width = width
    config.model.options = {
        "layers": layers,
        "fusion": {"fmb_tokens": tokens, "lcb_tokens": tokens, "rank": tokens, "hidden": (hidden,)},
        "head_hidden": hidden,
    }
    return config


def teach(config: ConfigDict, features: bool, labels: bool, share: float) -> ConfigDict:
    """Joins the store to a student's rows and sets which parts of the entries it uses."""
    if not features and not labels:
        return config
    config.data.join.factory = "lattice.teacher.knowledge_transfer:build_join"
    config.data.join.options = {"store": STORE, "time_to_live_hours": 6.0, "kept_share": share}
    if features:
        config.model.options.teacher_tokens = 2
    if labels:
        config.model.options.distillation_head = True
        config.loss.factory = "lattice.losses:build"
        config.loss.options = {"distillation_weight": 1.0}
    return config


def plant() -> ConfigDict:
    """Returns the options of the generated data."""
    planted = ConfigDict()
    planted.domains = 2
    planted.objectives = ("click", "like")
    planted.base_rates = (0.25, 0.1)
    planted.fields = 6
    planted.values_per_field = 30
    planted.days = 1.0
    planted.train_rows = 600_000
    planted.validation_rows = 20_000
    planted.test_rows = 100_000
    return planted

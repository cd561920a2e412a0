"""DLRM on Frappe.

Command:   python scripts/train.py --config=configs/frappe_dlrm.py --workdir=runs/dlrm --config.data.path=FOLDER
           FOLDER holds frappe.train*.libfm, frappe.validation.libfm and frappe.test.libfm (plain or .gz)
Expected:  test AUC 0.985, log loss 0.149 (training negatives resampled; one seed; validation 0.9859, 0.145);
           four minutes on 2 CPU cores that others kept busy
"""

from ml_collections import ConfigDict

from wukong_jax.config import start_config


def get_config() -> ConfigDict:
    """The Frappe run."""
    config = start_config()
    config.name = "DLRM on Frappe"
    config.data.format = "raw"
    config.data.schema = "frappe"

    config.embeddings.width = 32
    config.embeddings.initial_scale = 0.02
    config.embeddings.optimizer.kind = "lazy_adam"
    config.embeddings.optimizer.learning_rate = 1e-3
    config.embeddings.optimizer.l2 = 0.1  # of the mean loss, as FuxiCTR counts it; lazy (embeddings/row_optimizers.py)

    config.model.factory = "wukong_jax.models.dlrm:build"
    config.model.options = {
        "top_hidden": (400, 400, 400),
        "top_dropout": 0.2,
        "pair_norm": True,
    }
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 5e-4

    config.training.batch_size = 4096
    # As in configs/frappe_wukong.py: full rate for eight epochs while L2 holds the tables back, then one at 0.3 of it.
    config.optimizer.schedule = "linear"
    config.optimizer.hold_steps = 400
    config.optimizer.decay_steps = 1
    config.optimizer.final_fraction = 0.3
    config.training.epochs = 9
    config.training.log_every_steps = 50
    config.training.checkpoint_every_steps = 250
    return config

"""DLRM on planted clicks, without towers, and with four towers of several compressions; also used by bench_dmt.

Command:   python scripts/compare_variants.py --config=dmt/planted --variants=flat,1,2,4,8,16 --seeds=0,1,2
           --workdir=runs/dmt_planted --output=docs/results/dmt_quality_planted
           or one of them: python scripts/train.py --config=dmt/planted:4 --workdir=runs/dmt_planted_4
           `flat` is DLRM without towers; a number is the compression of tower modules. If the mesh has several hosts
           (`--config.mesh.hosts=4`), the towers are placed on them (dmt/tower_exchange.py); this only affects the time.
Data:      generated: 16 categorical fields of 20 values, a true logit of order-1 and order-2 interactions
Expected:  docs/results/dmt_quality_planted (test AUC 0.815 up to compression 8, 0.812 at 16); two to four minutes per
           run on 2 CPU cores
"""

from ml_collections import ConfigDict

from wukong_jax.config import start_config

TOWERS = 4


def get_config(variant: str = "flat") -> ConfigDict:
    """Returns the config of a variant: "flat", "pass_through", or a compression."""
    config = start_config()
    config.name = f"DLRM, {variant}"
    config.data.factory = "planted_clicks"
    config.data.options = planted_clicks()
    config.embeddings.width = 128
    config.embeddings.initial_scale = 0.02
    config.embeddings.optimizer.kind = "lazy_adam"
    config.embeddings.optimizer.learning_rate = 5e-3
    config.optimizer.learning_rate = 2e-3
    config.training.batch_size = 4096
    config.training.epochs = 2
    config.optimizer.schedule = "cosine"
    config.optimizer.decay_steps = 2 * 367  # the whole run
    config.training.log_every_steps = 50
    config.training.evaluate_every_steps = 100
    config.training.checkpoint_every_steps = 400
    set_model(config, variant, {"top_hidden": (256,), "pair_norm": True}, TOWERS)
    return config


def set_model(config: ConfigDict, variant: str, dlrm: dict, towers: int | str) -> None:
    """Sets DLRM without towers ("flat"), or with "pass_through" towers or compressing ones ("4", or "dcn4" for DCN)."""
    if variant == "flat":
        config.model.factory = "wukong_jax.models.dlrm:build"
        config.model.options = dlrm
        return
    module = {"kind": "pass_through"}
    if variant != "pass_through":
        kind, number = variant.rstrip("0123456789"), variant.lstrip("abcdefghijklmnopqrstuvwxyz")
        module = {"kind": kind or "dlrm", "compression": int(number)}
        module |= {"cross_rank": 32} if kind == "dcn" else {}
    config.model.factory = "dmt.model:build"
    config.model.options = {
        "towers": towers,
        "module": module,
        "over": "wukong_jax.models.dlrm:build",
        "over_options": dlrm,
    }
    config.exchange.factory = "dmt.tower_exchange:build"


def planted_clicks() -> ConfigDict:
    """Returns the options of the generated data, the same for all variants."""
    planted = ConfigDict()
    planted.seed = 0
    planted.fields = 16
    planted.values_per_field = 20
    planted.orders = (1, 2)
    planted.order_shares = (0.3, 0.7)
    planted.train_rows = 1_500_000
    planted.validation_rows = 50_000
    planted.test_rows = 200_000
    return planted

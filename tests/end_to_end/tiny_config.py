"""Config of a short run with every kind of state: dropout, lazy Adam, L2, bfloat16 rounding, plateaus, best state."""

from ml_collections import ConfigDict

from wukong_jax.config import start_config


def get_config() -> ConfigDict:
    config = start_config()
    config.name = "tiny"
    config.data.factory = "planted_clicks"
    config.data.window_rows = 8192
    planted = ConfigDict()
    planted.fields = 4
    planted.values_per_field = 10
    planted.orders = (1, 2)
    planted.order_shares = (0.5, 0.5)
    planted.dense_fields = 2
    planted.train_rows = 20_000
    planted.validation_rows = 4_000
    planted.test_rows = 4_000
    config.data.options = planted
    config.embeddings.width = 4
    config.embeddings.dtype = "bfloat16"
    config.embeddings.optimizer.kind = "lazy_adam"
    config.embeddings.optimizer.learning_rate = 0.01
    config.embeddings.optimizer.l2 = 1e-4
    config.model.options = {
        "layers": 1,
        "fmb_tokens": 4,
        "lcb_tokens": 4,
        "rank": 4,
        "fmb_hidden": (16,),
        "head_hidden": (16,),
        "bottom_hidden": (8,),
        "head_dropout": 0.1,
    }
    config.optimizer.learning_rate = 0.01
    config.optimizer.warmup_steps = 5
    config.training.batch_size = 512
    config.training.evaluation_batch_size = 1024
    config.training.epochs = 2
    config.training.log_every_steps = 7
    config.training.evaluate_every_steps = 16
    config.training.checkpoint_every_steps = 10
    config.training.plateau_factor = 0.5
    return config

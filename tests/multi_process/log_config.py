"""Config of a run on a small log that several processes train."""

from ml_collections import ConfigDict

from wukong_jax.config import start_config


def get_config() -> ConfigDict:
    config = start_config()
    config.name = "log of a team"
    config.data.factory = "raw"
    config.embeddings.width = 16
    config.embeddings.initial_scale = 0.3
    config.embeddings.optimizer = ConfigDict({"kind": "adagrad", "learning_rate": 0.1, "l2": 1e-3})
    config.model.factory = "wukong_jax.models.fm:build"
    config.optimizer.learning_rate = 0.01
    config.training.batch_size = 64
    config.training.evaluation_batch_size = 64
    config.training.epochs = 1
    return config

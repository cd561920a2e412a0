"""Config of a short run whose table fills a small disk: hashed ids in raw files beside this config's data path."""

from ml_collections import ConfigDict

from wukong_jax.config import start_config


def get_config() -> ConfigDict:
    config = start_config()
    config.name = "hashed"
    config.data.factory = "raw"
    config.embeddings.width = 4
    config.embeddings.initial_scale = 0.02
    config.embeddings.optimizer.kind = "rowwise_adagrad"
    config.embeddings.optimizer.learning_rate = 0.05
    config.optimizer.learning_rate = 0.01
    config.model.factory = "wukong_jax.models.fm:build"
    config.training.batch_size = config.training.evaluation_batch_size = 64
    config.training.steps = 12
    config.training.checkpoint_every_steps = config.training.evaluate_every_steps = 5
    return config

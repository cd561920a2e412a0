"""Settings shared by the configs of planted portfolios: tables with lazy Adam, and one pass with a cosine schedule.

This is not a config by itself: `lattice/planted`, `lattice/ablations` and others import it.
"""

from ml_collections import ConfigDict


def set_tables(config: ConfigDict) -> None:
    """Sets embeddings of width 16 that are trained by lazy Adam."""
    config.embeddings.width = 16
    config.embeddings.initial_scale = 0.02
    config.embeddings.optimizer.kind = "lazy_adam"
    config.embeddings.optimizer.learning_rate = 5e-3


def set_training(config: ConfigDict, *, rows: int, batch: int, warmup_steps: int) -> None:
    """Sets one pass over the training rows; the state with the best validation log loss is kept."""
    config.optimizer.learning_rate = 3e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = warmup_steps
    config.optimizer.decay_steps = -(-rows // batch) - warmup_steps
    config.training.batch_size = batch
    config.training.epochs = 1
    config.training.log_every_steps = 50
    config.training.early_stop_metric = "log_loss"

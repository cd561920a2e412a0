"""Config of a run that several processes train: every placement of tables, dropout, lazy Adam, L2 and plateaus."""

from ml_collections import ConfigDict

from tests.end_to_end.tiny_config import get_config as get_tiny_config


def get_config() -> ConfigDict:
    config = get_tiny_config()
    config.name = "team"
    config.embeddings.dtype = "float32"  # stochastic rounding draws other numbers under every placement
    placed = ("replicated", "table_wise", "column_wise", "row_wise")
    config.exchange.options = {"tables": {f"field_{i}": strategy for i, strategy in enumerate(placed)}}
    config.data.options.test_rows = 20_000  # with fewer, a single pair in another order would count
    config.training.start_at_rate = False
    config.training.log_every_steps = 2
    config.training.evaluate_every_steps = 6
    config.training.checkpoint_every_steps = 4
    return config

"""What the configs of the public CTR sets share: the models at one set's sizes, and training as BARS does it.

No run by itself: `configs/movielens_latest.py` and its like load it. The wukong paper works in BARS' framework
(FuxiCTR), with BARS' best settings for its baselines; they are the settings here too where BARS' logs were at hand.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from wukong_jax.config import start_config

Options = Mapping[str, Any]


def baseline_options(
    hidden: tuple[int, ...], dropout: float, norms: Options, changes: Mapping[str, Options]
) -> dict[str, Options]:
    """The options of the paper's seven baselines and of a plain DNN, by the model's module.

    Args:
      hidden: widths of every MLP.
      dropout: after each of their hidden layers.
      norms: which norms the models around an MLP have, where BARS' have batch norm (`models/vector_model.py`).
      changes: model -> the options in which it differs.
    """
    deep = {"deep_hidden": hidden, "deep_dropout": dropout}
    streams = {"mlp1_hidden": hidden, "mlp1_dropout": dropout, "mlp2_hidden": hidden, "mlp2_dropout": dropout}
    options: dict[str, Options] = {
        "dlrm": {"top_hidden": hidden, "top_dropout": dropout},
        "dcnv2": {"structure": "parallel", **deep, **norms},
        "dnn": {**deep, **norms},
        "autoint": {**deep, **norms},
        "afn": {"afn_hidden": hidden, "afn_dropout": dropout, **deep},
        "masknet": {"block_widths": hidden, "block_dropout": dropout},
        "xdeepfm": {**deep, **norms},
        "finalmlp": {**streams, **norms},
    }
    return {model: {**own, **changes.get(model, {})} for model, own in options.items()}


def start_run(title: str, model: str, models: Mapping[str, Options], width: int) -> ConfigDict:
    """A config with its data and model, not yet with optimizers.

    Args:
      title: of the data.
      model: one of `models`; the name of its module.
      models: name -> options.
      width: D. AFN+ gets twice that, a table for each of its two branches.
    """
    if model not in models:
        raise ValueError(f"model {model!r}: {', '.join(models)}")
    config = start_config()
    config.name = f"{model} on {title}"
    config.data.format = "blocks"
    config.embeddings.width = 2 * width if model == "afn" else width
    config.embeddings.initial_scale = 0.02  # BARS starts at 1e-4, where Wukong's products vanish
    config.embeddings.pooling = "mean"  # of sequences, as BARS pools them
    config.model.factory = f"wukong_jax.models.{model}:build"
    config.model.options = dict(models[model])
    return config


def train_as_bars(
    config: ConfigDict, *, batch_size: int, l2: float, learning_rate: float = 1e-3, patience: int = 2
) -> None:
    """Adam until validation AUC stalls, a tenth of the rate after each stall, the best epoch's state.

    Different from BARS: tables learn by lazy Adam with lazy L2 (`embeddings/row_optimizers.py`), clipping sees the
    dense gradient alone, and AUC alone decides where BARS adds GAUC or log loss.

    Args:
      config: of `start_run`.
      batch_size: B.
      l2: of the tables, of the mean loss, as FuxiCTR counts it.
      learning_rate: of dense weights and tables.
      patience: evaluations without improvement before stopping.
    """
    config.embeddings.optimizer.kind = "lazy_adam"
    config.embeddings.optimizer.learning_rate = learning_rate
    config.embeddings.optimizer.l2 = l2
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = learning_rate
    config.optimizer.clip_norm = 10.0
    config.training.batch_size = batch_size
    config.training.epochs = 100
    config.training.early_stop_metric = "auc"
    config.training.early_stop_patience = patience
    config.training.plateau_factor = 0.1
    config.training.log_every_steps = 100
    config.training.checkpoint_every_steps = 1000

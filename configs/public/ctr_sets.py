"""Shared parts of the configs of public click sets: model options for each set, and training as in BARS.

The Wukong paper uses the framework of BARS (FuxiCTR), with the best settings of BARS for its baselines. These settings
are used here, too, if the logs of BARS were available. For published numbers, see docs/public_sets.md.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ml_collections import ConfigDict

from wukong_jax.config import start_config
from wukong_jax.errors import UserError

Options = Mapping[str, Any]
NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class ClickSet:
    """Settings of one click set."""

    title: str
    models: Mapping[str, Options]  # options by name of the model's module
    width: int  # D; AFN+ has twice as much, for one table per branch
    batch_size: int
    l2: float  # L2 of the tables, relative to the mean loss as in FuxiCTR
    l2_of: Mapping[str, float] = dataclasses.field(default_factory=dict)  # exceptions by model
    wukong_width: int | None = None  # D of Wukong if different
    learning_rate: float = 1e-3  # of dense weights and tables
    patience: int = 2  # evaluations without improvement before stopping

    def width_of(self, model: str) -> int:
        """Returns D of a model."""
        if model == "wukong":
            return self.wukong_width or self.width
        return 2 * self.width if model == "afn" else self.width


def list_models(
    wukong: Options, hidden: tuple[int, ...], dropout: float = 0.0, norms: Options = NOTHING, **changes: Options
) -> dict[str, Options]:
    """Builds the options of Wukong, the paper's seven baselines and a plain DNN, by name of the model's module.

    Args:
      wukong: changes of `WUKONG` for this set.
      hidden: hidden widths of every MLP of the baselines.
      dropout: dropout after each of their hidden layers.
      norms: norms of MLP-based models, for which BARS uses batch norm (see `models/vector_model.py`).
      changes: changes of single baselines, by name.
    """
    deep = {"deep_hidden": hidden, "deep_dropout": dropout}
    streams = {"mlp1_hidden": hidden, "mlp1_dropout": dropout, "mlp2_hidden": hidden, "mlp2_dropout": dropout}
    baselines: dict[str, Options] = {
        "dlrm": {"top_hidden": hidden, "top_dropout": dropout},
        "dcnv2": {"structure": "parallel", **deep, **norms},
        "dnn": {**deep, **norms},
        "autoint": {**deep, **norms},
        "afn": {"afn_hidden": hidden, "afn_dropout": dropout, **deep},
        "masknet": {"block_widths": hidden, "block_dropout": dropout},
        "xdeepfm": {**deep, **norms},
        "finalmlp": {**streams, **norms},
    }
    usual = {"wukong": WUKONG, **baselines}
    return {model: {**options, **({"wukong": wukong} | changes).get(model, {})} for model, options in usual.items()}


WUKONG: Options = {
    "layers": 3,
    "fmb_tokens": 16,
    "lcb_tokens": 16,
    "rank": 24,
    "fmb_hidden": (512,),
    "head_hidden": (512, 256),
}
DROPOUT = {"fmb_dropout": 0.1, "head_dropout": 0.1}

AVAZU_X4 = ClickSet(
    title="Avazu_x4",
    # The best settings of BARS, except for DNN, xDeepFM, the heads and MLP of AutoInt+ (none, in the log) and the head
    # of MaskNet, whose logs were not available. BARS has no DLRM.
    models=list_models(
        wukong={},
        hidden=(1000, 1000),
        dcnv2={"cross_layers": 4, "deep_hidden": (2000, 2000, 2000, 2000)},
        autoint={"attention_layers": 7, "attention_dim": 128, "attention_heads": 2},
        afn={"log_neurons": 1200},
        masknet={
            "structure": "parallel",
            "block_widths": (500,) * 6,
            "reduction_ratio": 0.8,
            "head_hidden": (1000,),
        },
        finalmlp={"mlp1_hidden": (2000, 2000, 2000), "mlp2_hidden": (500,), "use_fs": False, "heads": 20},
    ),
    width=16,
    batch_size=10_000,
    l2=1e-9,  # that of the best DCNv2 of BARS, for all models but two
    l2_of={"afn": 1e-8, "autoint": 1e-7},
)

CRITEO_X1 = ClickSet(
    title="Criteo_x1",
    # The best settings of BARS, except for the CIN of xDeepFM, the heads of AutoInt+ and the neurons of AFN+, which
    # were not available.
    models=list_models(
        wukong={"bottom_hidden": (256,), **DROPOUT},
        hidden=(400, 400, 400),
        dropout=0.1,
        dlrm={"bottom_hidden": (400, 400, 400), "top_dropout": 0.2},
        dcnv2={"cross_layers": 3, "deep_hidden": (500, 500, 500)},
        autoint={"attention_layers": 3, "attention_dim": 256, "attention_heads": 2, "mlp_norm": "layer"},
        afn={"log_neurons": 800, "afn_hidden": (200,), "afn_dropout": 0.4},
        masknet={"reduction_ratio": 0.2, "token_norm": False, "block_dropout": 0.2},
        finalmlp={
            "mlp1_dropout": 0.2,
            "mlp2_hidden": (1000,),
            "mlp2_dropout": 0.3,
            "mlp_norm": "layer",
            "fs_hidden": (800,),
            "fs2_context": ("C6",),  # dense columns, the other context of BARS, cannot be one here (models/finalmlp.py)
            "heads": 200,
        },
    ),
    width=10,
    batch_size=4096,
    l2=1e-5,
)

KUAI_VIDEO = ClickSet(
    title="KuaiVideo",
    # BARS has DCNv2, DNN, AutoInt+ and xDeepFM (its CIN maps were not available); the others have the same MLP.
    models=list_models(
        wukong=DROPOUT,
        hidden=(1024, 512, 256),
        dropout=0.1,
        norms={"mlp_norm": "layer"},
        dcnv2={"cross_layers": 2},
        autoint={
            "attention_layers": 3,
            "attention_dim": 512,
            "attention_heads": 4,
            "deep_dropout": 0.3,
            "mlp_norm": "none",
        },
        finalmlp={"fs1_context": ("user_id",), "fs2_context": ("item_id",), "heads": 8},
    ),
    width=64,
    batch_size=8192,
    l2=1e-4,
    l2_of={"xdeepfm": 5e-4},
)

MICRO_VIDEO = ClickSet(
    title="MicroVideo",
    # BARS has DCNv2, DNN, AutoInt+ and xDeepFM (the CIN maps and the attention size were not available).
    models=list_models(
        wukong={"layers": 2, "fmb_tokens": 8, "lcb_tokens": 8, **DROPOUT},
        hidden=(1024, 512, 256),
        dropout=0.1,
        norms={"mlp_norm": "layer"},
        autoint={"attention_heads": 2, "attention_norm": True, "deep_dropout": 0.2},
        xdeepfm={"deep_dropout": 0.2},
        finalmlp={"fs1_context": ("user_id",), "fs2_context": ("cate_id",), "heads": 8},
    ),
    width=64,
    batch_size=2048,
    l2=1e-3,
    learning_rate=5e-4,
)

MOVIELENS_LATEST = ClickSet(
    title="MovieLens Latest",
    models=list_models(
        wukong={"fmb_dropout": 0.2, "head_dropout": 0.2},
        hidden=(400, 400, 400),
        dropout=0.2,
        # With L2 of 0.01, MLP-based models learn little unless their embeddings are normalised (frappe_baselines.py).
        norms={"embedding_norm": True, "mlp_norm": "layer"},
        dlrm={"pair_norm": True},
        dcnv2={"cross_layers": 5},
        autoint={
            "attention_layers": 2,
            "attention_dim": 128,
            "attention_heads": 4,
            "attention_scale": True,
            "attention_norm": True,
            "deep_dropout": 0.1,
            "linear_term": True,
        },
        afn={"log_neurons": 800, "afn_hidden": (200,), "afn_dropout": 0.4, "deep_dropout": 0.5},
        masknet={"reduction_ratio": 4.0, "token_norm": False, "block_dropout": 0.5},
        xdeepfm={"cin_maps": (64, 64, 64), "deep_dropout": 0.3, "mlp_norm": "none"},
        finalmlp={
            "mlp1_hidden": (400,),
            "mlp1_dropout": 0.4,
            "mlp2_hidden": (800,),
            "fs_hidden": (800,),
            "heads": 10,
        },
    ),
    width=10,
    wukong_width=128,
    batch_size=4096,
    l2=0.01,
    l2_of={"afn": 1e-3, "masknet": 5e-3, "xdeepfm": 5e-3},  # best settings of BARS
)

TAOBAO_ADS = ClickSet(
    title="TaobaoAds",
    # BARS has DCNv2, DNN, AutoInt+ and xDeepFM; the others have the same MLP.
    models=list_models(
        wukong={"fmb_hidden": (512, 512), "head_hidden": (1024, 512), "bottom_hidden": (256,), **DROPOUT},
        hidden=(512, 256, 128),
        dropout=0.1,
        dcnv2={"cross_layers": 4},
        autoint={"attention_layers": 3, "attention_dim": 128, "attention_heads": 1},
        xdeepfm={"cin_maps": (16,)},
        finalmlp={"fs1_context": ("userid",), "fs2_context": ("adgroup_id",), "heads": 8},
    ),
    width=32,
    wukong_width=128,
    batch_size=8192,
    l2=5e-6,
    patience=1,
)


def build_run(clicks: ClickSet, model: str) -> ConfigDict:
    """Builds the config of a run: Adam with early stopping by validation AUC, and a tenth of the rate after each stall.

    Unlike in BARS, tables use lazy Adam with lazy L2 (`embeddings/row_optimizers.py`), only the dense gradient is
    clipped, and the stopping metric is AUC alone, while BARS adds GAUC or log loss on some sets.

    Args:
      clicks: settings of the set.
      model: name of one of its models.
    """
    config = start_run(clicks.title, model, clicks.models, clicks.width_of(model))
    config.embeddings.optimizer.kind = "lazy_adam"
    config.embeddings.optimizer.learning_rate = clicks.learning_rate
    config.embeddings.optimizer.l2 = clicks.l2_of.get(model, clicks.l2)
    config.optimizer.factory = "adam"
    config.optimizer.learning_rate = clicks.learning_rate
    config.optimizer.clip_norm = 10.0
    config.training.batch_size = clicks.batch_size
    config.training.epochs = 100
    config.training.early_stop_metric = "auc"
    config.training.early_stop_patience = clicks.patience
    config.training.plateau_factor = 0.1
    config.training.log_every_steps = 100
    config.training.checkpoint_every_steps = 1000
    return config


def start_run(title: str, model: str, models: Mapping[str, Options], width: int) -> ConfigDict:
    """Builds a config with data and model, but without optimizers.

    Args:
      title: title of the data set.
      model: name of the model's module, a key of `models`.
      models: options of models by name.
      width: D.
    """
    if model not in models:
        raise UserError(f"model {model!r}: {', '.join(models)}")
    config = start_config()
    config.name = f"{model} on {title}"
    config.data.factory = "blocks"
    config.embeddings.width = width
    config.embeddings.initial_scale = 0.02  # BARS has 1e-4, with which Wukong's products vanish
    config.embeddings.pooling = "mean"  # of sequences, as BARS pools them
    config.model.factory = f"wukong_jax.models.{model}:build"
    config.model.options = dict(models[model])
    return config

"""Baselines on Frappe: `:dlrm`, `:dcnv2`, `:dnn`, `:finalmlp`, `:masknet`, `:xdeepfm`, ...

Command:   python scripts/train.py --config=public/frappe_baselines:dlrm --workdir=runs/dlrm
           --config.data.path=FOLDER
           FOLDER holds frappe.train*.libfm, frappe.validation.libfm and frappe.test.libfm (plain or .gz)
           All of them, three seeds each:
           python scripts/compare_variants.py --config=public/frappe_baselines --seeds=0,1,2
           --variants=dlrm,dcnv2,dnn,autoint,afn,masknet,xdeepfm,finalmlp,fm,logistic_regression
           --workdir=runs/frappe_baselines --output=docs/results/frappe_baselines --config.data.path=FOLDER
Expected:  docs/results/frappe_baselines: all but AutoInt+ and AFN+ within 0.002 of the published AUC (negatives are
           resampled, so a difference of 0.001 means nothing); one to eight minutes per run on one CPU core
"""

from ml_collections import ConfigDict

from wukong_jax.errors import UserError

from . import frappe_wukong

MODELS = {
    "dlrm": {"top_hidden": (400, 400, 400), "top_dropout": 0.2, "pair_norm": True},
    # Without the norm, the model learns little with so strong L2 (models/dcnv2.py).
    "dcnv2": {
        "structure": "parallel",
        "cross_layers": 3,
        "deep_hidden": (400, 400, 400),
        "deep_dropout": 0.2,
        "embedding_norm": True,
    },
    "dnn": {"deep_hidden": (400, 400, 400), "deep_dropout": 0.2, "embedding_norm": True},
    "autoint": {
        "attention_layers": 3,
        "attention_dim": 64,
        "attention_heads": 2,
        "attention_scale": True,
        "attention_norm": True,
        "deep_hidden": (400, 400, 400),
        "deep_dropout": 0.2,
        "embedding_norm": True,
    },
    "afn": {
        "log_neurons": 128,
        "afn_hidden": (400, 400),
        "afn_dropout": 0.2,
        "deep_hidden": (400, 400),
        "deep_dropout": 0.2,
        "embedding_norm": True,
    },
    "masknet": {
        "structure": "parallel",
        "block_widths": (50, 50, 50),
        "reduction_ratio": 2.0,
        "head_hidden": (400, 400, 400),
        "head_dropout": 0.1,
        "embedding_norm": True,
    },
    "xdeepfm": {"cin_maps": (16, 16), "deep_hidden": (400, 400), "deep_dropout": 0.2, "embedding_norm": True},
    "finalmlp": {
        "mlp1_hidden": (400,),
        "mlp1_dropout": 0.2,
        "mlp2_hidden": (400,),
        "mlp2_dropout": 0.2,
        "use_fs": True,
        "fs_hidden": (400,),
        "fs1_context": ("user",),
        "fs2_context": ("item",),
        "heads": 5,
        "embedding_norm": True,
    },
    "fm": {},
    "logistic_regression": {},
}
# L2 and learning rate of tables, if different from Wukong's, and learning rate of dense weights; by validation AUC.
TABLES = {"logistic_regression": (0.0, 0.03), **dict.fromkeys(("fm", "finalmlp", "autoint", "afn"), (1e-5, 0.03))}
DENSE_RATES = {"afn": 1e-3}
WIDTHS = {"logistic_regression": 1, "fm": 33, "afn": 64}  # FM: 1 weight and 32 factors; AFN+: two tables of width 32


def get_config(model: str = "dlrm") -> ConfigDict:
    """Returns the config of a baseline: that of Wukong with another model."""
    if model not in MODELS:
        raise UserError(f"model {model!r}: {', '.join(MODELS)}")
    config = frappe_wukong.get_config()
    config.name = f"{model} on Frappe"
    config.embeddings.width = WIDTHS.get(model, 32)
    if model in TABLES:
        config.embeddings.optimizer.l2, config.embeddings.optimizer.learning_rate = TABLES[model]
    config.optimizer.learning_rate = DENSE_RATES.get(model, config.optimizer.learning_rate)
    config.model.factory = f"wukong_jax.models.{model}:build"
    config.model.options = ConfigDict(MODELS[model])
    return config

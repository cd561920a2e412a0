"""Wukong and its baselines on KuaiVideo (BARS' KuaiVideo_x1): clicks, and what the user clicked and skipped before.

Command:   python scripts/prepare_data.py --schema=kuai_video --input=FOLDER --output=data/kuai_video
           python scripts/train.py --config=configs/kuai_video.py --workdir=runs/kuai_video
           --config.data.path=data/kuai_video
           `:dlrm`, `:dcnv2`, `:dnn`, `:autoint`, `:afn`, `:masknet`, `:xdeepfm` or `:finalmlp` behind the config's name
           train a baseline.
Data:      KuaiVideo_x1.zip (2.27 GB) of huggingface.co/datasets/reczoo/KuaiVideo_x1; FOLDER holds its train.csv and
           test.csv (10,931,092 / 2,730,291 rows; columns timestamp, user_id, item_id, is_click, is_like, is_follow, and
           pos_items and neg_items, up to 100 items joined by ^). There are no validation rows: a random tenth of the
           test rows validates and the rest tests. BARS stops on the test rows themselves. Not read: the release's cover
           image vectors (item_visual_emb_dim64.h5), which BARS adds as frozen embeddings of the item and both
           sequences, and its likes, follows and times. Values seen fewer than 10 times are unknown as in BARS, but an
           item's counts in the three columns add up here, where BARS wants 10 in one of them.
Published: test AUC / log loss, the wukong paper's Table 2: AFN+ 0.7348 / 0.4372, AutoInt+ 0.7297 / 0.4376, DCNv2
           0.7360 / 0.4383, DLRM 0.7357 / 0.4382, FinalMLP 0.7374 / 0.4435, MaskNet 0.7376 / 0.4372, xDeepFM
           0.7118 / 0.4565, Wukong 0.7414 / 0.4367. BARS (and GAUC): AutoInt+ 0.7469 / 0.4357 (0.6667), DCNv2
           0.7470 / 0.4375 (0.6675), DNN 0.7453 / 0.4401 (0.6658), xDeepFM 0.7471 / 0.4377 (0.6696); best there DMIN
           0.7508 / 0.4302 (0.6726). All of them see the cover vectors: the paper's xDeepFM has to the last parameter
           the count of BARS' log.
Expected:  not run: the data was not at hand. Wukong's settings are ours, the paper gives none; its size is chosen near
           the paper's counts for D = 64 (3.60 M dense parameters and 23.2 MFLOP against 3.56 M and 22.27)
"""

from pathlib import Path

from ml_collections import ConfigDict

from wukong_jax.config import load_config_module

PARTS = load_config_module(Path(__file__).with_name("parts") / "public_sets.py")
MODELS = {
    "wukong": {
        "layers": 3,
        "fmb_tokens": 16,
        "lcb_tokens": 16,
        "rank": 24,
        "fmb_hidden": (512,),
        "head_hidden": (512, 256),
        "fmb_dropout": 0.1,
        "head_dropout": 0.1,
    },
    # BARS ran DCNv2, DNN, AutoInt+ and xDeepFM (its CIN's maps were not at hand); the others have the same MLP.
    **PARTS.baseline_options(
        hidden=(1024, 512, 256),
        dropout=0.1,
        norms={"mlp_norm": True},
        changes={
            "dcnv2": {"cross_layers": 2},
            "autoint": {
                "attention_layers": 3,
                "attention_dim": 512,
                "attention_heads": 4,
                "deep_dropout": 0.3,
                "mlp_norm": False,
            },
            "finalmlp": {"fs1_context": ("user_id",), "fs2_context": ("item_id",), "heads": 8},
        },
    ),
}


def get_config(model: str = "wukong") -> ConfigDict:
    """The KuaiVideo run of a model."""
    config = PARTS.start_run("KuaiVideo", model, MODELS, width=64)
    PARTS.train_as_bars(config, batch_size=8192, l2=5e-4 if model == "xdeepfm" else 1e-4)
    return config

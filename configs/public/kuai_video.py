"""Wukong and baselines on KuaiVideo (KuaiVideo_x1 of BARS): clicks, with earlier clicked and skipped videos.

Command:   python scripts/prepare_data.py --schema=kuai_video --input=FOLDER --output=data/kuai_video
           python scripts/train.py --config=public/kuai_video --workdir=runs/kuai_video
           --config.data.path=data/kuai_video
           `:dlrm`, `:dcnv2`, `:dnn`, `:autoint`, `:afn`, `:masknet`, `:xdeepfm` or `:finalmlp` train a baseline.
Data:      KuaiVideo_x1.zip (2.27 GB) of huggingface.co/datasets/reczoo/KuaiVideo_x1; FOLDER holds its train.csv and
           test.csv (10,931,092 / 2,730,291 rows; columns timestamp, user_id, item_id, is_click, is_like, is_follow, and
           pos_items and neg_items, up to 100 items joined by ^). There are no validation rows, so a random tenth of the
           test rows is used for validation; BARS stops early on the test rows. Not read are likes, follows, times, and
           the cover image vectors (item_visual_emb_dim64.h5), which BARS adds as frozen embeddings of the item and both
           sequences. Values seen fewer than 10 times are unknown as in BARS, but here an item's counts in the three
           columns are added, while BARS requires 10 in one of them.
Expected:  not run, because the data was not available. Wukong's settings are ours, as the paper gives none; its size is
           near the paper's counts for D = 64 (3.60 M dense parameters and 23.2 MFLOP against 3.56 M and 22.27)
"""

from ml_collections import ConfigDict

from . import ctr_sets


def get_config(model: str = "wukong") -> ConfigDict:
    """Returns the config of a model on KuaiVideo."""
    return ctr_sets.build_run(ctr_sets.KUAI_VIDEO, model)

"""Wukong and baselines on MicroVideo (MicroVideo1.7M_x1 of BARS): clicks; all videos of the test rows are new.

Command:   python scripts/prepare_data.py --schema=micro_video --input=FOLDER --output=data/micro_video
           python scripts/train.py --config=public/micro_video --workdir=runs/micro_video
           --config.data.path=data/micro_video
           `:dlrm`, `:dcnv2`, `:dnn`, `:autoint`, `:afn`, `:masknet`, `:xdeepfm` or `:finalmlp` train a baseline.
Data:      MicroVideo1.7M_x1.zip (1.05 GB) of huggingface.co/datasets/reczoo/MicroVideo1.7M_x1; FOLDER holds its
           train.csv and test.csv (8,970,309 / 3,767,308 rows; columns user_id, item_id, cate_id, is_click, timestamp,
           and clicked_items and clicked_categories, joined by ^, the latest last; the order of columns was not
           available and does not matter). The latest 100 items of a history are read, as in BARS. There are no
           validation rows, so a random tenth of the test rows is used for validation; BARS stops early on the test
           rows. The cover image vectors (item_image_emb_dim64.h5) are not read; they are the only item features of the
           models in BARS. Here items have learned embeddings, and the items of the test rows, all of them new, have the
           embedding of the unknown row. To train it, items seen fewer than 10 times are unknown (in BARS, all items of
           the training rows are known).
Expected:  not run, because the data was not available; results should be below the published ones, which use the
           vectors. Wukong's settings are ours, as the paper gives none; its size is near the paper's counts for D = 64
           (1.44 M dense parameters and 9.1 MFLOP against 1.48 M and 9.08)
"""

from ml_collections import ConfigDict

from . import ctr_sets


def get_config(model: str = "wukong") -> ConfigDict:
    """Returns the config of a model on MicroVideo."""
    return ctr_sets.build_run(ctr_sets.MICRO_VIDEO, model)

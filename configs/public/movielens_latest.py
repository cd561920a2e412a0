"""Wukong and baselines on MovieLens Latest (MovielensLatest_x1 of BARS): has a user given a movie a tag?

Command:   python scripts/prepare_data.py --schema=movielens_latest --input=FOLDER --output=data/movielens_latest
           python scripts/train.py --config=public/movielens_latest --workdir=runs/movielens_latest
           --config.data.path=data/movielens_latest
           `:dlrm`, `:dcnv2`, `:dnn`, `:autoint`, `:afn`, `:masknet`, `:xdeepfm` or `:finalmlp` train a baseline.
Data:      MovielensLatest_x1.zip (16 MB) of huggingface.co/datasets/reczoo/MovielensLatest_x1; FOLDER holds its
           train.csv, valid.csv and test.csv (1,404,801 / 401,372 / 200,686 rows; columns label, user_id, item_id,
           tag_id)
Expected:  not run, because the data was not available. Wukong's settings are ours, as the paper gives none; its size is
           near the paper's counts for D = 128 (6.21 M dense parameters and 40.5 MFLOP against 6.18 M and 37.49)
"""

from ml_collections import ConfigDict

from . import ctr_sets


def get_config(model: str = "wukong") -> ConfigDict:
    """Returns the config of a model on MovieLens Latest."""
    return ctr_sets.build_run(ctr_sets.MOVIELENS_LATEST, model)

"""Wukong and baselines on Avazu_x4 (BARS setting 001; 002 by flags): ten days of mobile ads, split at random.

Command:   python scripts/prepare_data.py --schema=avazu_x4 --input=FOLDER --output=data/avazu_x4
           python scripts/train.py --config=public/avazu_x4 --workdir=runs/avazu_x4
           --config.data.path=data/avazu_x4
           `:dlrm`, `:dcnv2`, `:dnn`, `:autoint`, `:afn`, `:masknet`, `:xdeepfm` or `:finalmlp` train a baseline.
           For Avazu_x4_002 prepare with --min_count=1 and train with --config.embeddings.width=40 (80 for `:afn`).
Data:      Avazu_x4.zip (1.31 GB) of huggingface.co/datasets/reczoo/Avazu_x4; FOLDER holds its train.csv, valid.csv and
           test.csv (32,343,172 / 4,042,897 / 4,042,898 rows in the columns of Kaggle's train.csv: id, click, hour, C1,
           banner_pos, ...). Values seen once are unknown (001). BARS converts the hour (YYMMDDHH) to an hour of day, a
           weekday and a weekend flag. A schema has one feature per column, so here the hour is unchanged: one of 240
           values, which determine these three features and also the day.
Expected:  not run, because the data was not available. Wukong's settings are ours. The best epoch of BARS is the first
"""

from ml_collections import ConfigDict

from . import ctr_sets


def get_config(model: str = "wukong") -> ConfigDict:
    """Returns the config of a model on Avazu_x4."""
    return ctr_sets.build_run(ctr_sets.AVAZU_X4, model)

"""Wukong and baselines on Criteo_x1: a week of display ads, split at random by the AFN paper.

Command:   python scripts/prepare_data.py --schema=criteo_x1 --input=FOLDER --output=data/criteo_x1
           python scripts/train.py --config=public/criteo_x1 --workdir=runs/criteo_x1
           --config.data.path=data/criteo_x1
           `:dlrm`, `:dcnv2`, `:dnn`, `:autoint`, `:afn`, `:masknet`, `:xdeepfm` or `:finalmlp` train a baseline.
Data:      Criteo_x1.zip (2.89 GB) of huggingface.co/datasets/reczoo/Criteo_x1; FOLDER holds its train.csv, valid.csv
           and test.csv (33,003,326 / 8,250,124 / 4,587,167 rows; columns label, I1 to I13, already scaled to 0 to 1,
           and C1 to C26, numbers). All categorical values of the training rows are in the vocabularies.
Expected:  not run, because the data was not available. Wukong's settings are ours. An MLP converts the 13 numbers to
           one vector, while BARS has one vector per number
"""

from ml_collections import ConfigDict

from . import ctr_sets


def get_config(model: str = "wukong") -> ConfigDict:
    """Returns the config of a model on Criteo_x1."""
    return ctr_sets.build_run(ctr_sets.CRITEO_X1, model)

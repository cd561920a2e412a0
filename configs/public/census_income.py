"""Wukong on census-income (KDD): two objectives, income above 50,000 and never married; the year is the domain.

Command:   python scripts/train.py --config=public/census_income --workdir=runs/census --config.data.path=FOLDER
           FOLDER holds census-income.train.csv and census-income.test.csv (plain or .gz); a random half of the test
           file is used for validation.
           `:lattice`, `:mmoe`, `:ple`, `:star`, ... are other models (multi_domain_sets.py)
Expected:  test AUC 0.951 (income) and 0.9948 (never married); half a minute on 2 CPU cores
"""

from ml_collections import ConfigDict

from wukong_jax.config import start_config

from .multi_domain_sets import use_model

WUKONG = {
    "layers": 1,
    "fmb_tokens": 8,
    "lcb_tokens": 8,
    "rank": 8,
    "fmb_hidden": (64,),
    "head_hidden": (64,),
    "bottom_hidden": (32,),
    "head_dropout": 0.1,
}


def get_config(model: str = "wukong") -> ConfigDict:
    """Returns the config of a model: "wukong", "lattice", or one of `multi_domain_sets.BASELINES`."""
    config = start_config()
    config.name = "census-income"
    config.data.factory = "raw"
    config.data.schema = "census_income"

    config.embeddings.width = 16
    config.embeddings.initial_scale = 0.02
    config.embeddings.optimizer.kind = "rowwise_adagrad"
    config.embeddings.optimizer.learning_rate = 0.02

    config.optimizer.factory = "adam"
    config.optimizer.learning_rate = 1e-3

    config.training.batch_size = 1024
    config.training.epochs = 6
    config.training.log_every_steps = 50
    config.training.early_stop_metric = "log_loss"
    config.training.early_stop_patience = 2
    config.training.plateau_factor = 0.3
    return use_model(config, model, WUKONG)

"""Lattice on a prepared folder of several domains and objectives, such as merge_datasets writes.

Command:   python scripts/merge_datasets.py --inputs=feed=DIR_A,ads=DIR_B --output=data/merged
           python scripts/train.py --config=lattice/prepared --workdir=runs/merged --config.data.path=data/merged
           `:mmoe`, `:ple`, `:star`, ... are other models (configs/public/multi_domain_sets.py)
Data:      that of the folder; sequences are pooled
Expected:  depends on the folder; start here and change sizes and rates
"""

from ml_collections import ConfigDict

from ..public.multi_domain_sets import SMALL_WUKONG, start_prepared, use_model


def get_config(model: str = "lattice") -> ConfigDict:
    """Returns the config of a model: "lattice", "wukong", or one of `multi_domain_sets.BASELINES`."""
    return use_model(start_prepared(), model, SMALL_WUKONG)

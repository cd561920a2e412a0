"""Wukong on MovieLens latest-small (2018-09): 3 ages of films x click and like, and what the user clicked before.

Command:   python scripts/convert_movielens.py --input=FOLDER --output=data/movielens_small.csv
           python scripts/train.py --config=public/movielens_small --workdir=runs/movielens_small
           --config.data.path=data/movielens_small.csv
           FOLDER holds ratings.csv and movies.csv (plain or .gz; any release with these two will do)
           `:lattice`, `:mmoe`, `:ple`, `:star`, ... are other models (multi_domain_sets.py)
Data:      100,836 ratings of 610 users. click: above 3 stars, like: above 4, as M3oE has them; its code cuts half stars
           off first (3.5 is 3, no click), ours counts them. Domain: the film's age when it was rated, up to 4 years, 5
           to 14, above (31,578 / 35,684 / 33,574 rows). Split by time, 80 / 10 / 10 %: nine test rows in ten are of
           users without a training row, so the user's id is no feature (it groups rows for GAUC): a user is the latest
           20 films clicked, how many were rated, and the share clicked, all at earlier seconds. GroupLens calls it a
           set for development, not for results.
Expected:  test AUC click 0.805 (new 0.751, middle 0.796, old 0.833), like 0.740 (0.656, 0.722, 0.794), mean GAUC 0.631;
           one seed, settings not searched but for the tables' rate, lowered once on the validation rows; 25 seconds of
           CPU time. Without the count and the share (other settings): 0.60 to 0.62 and 0.60.
"""

from ml_collections import ConfigDict

from .multi_domain_sets import SMALL_WUKONG, start_movielens_small, use_model


def get_config(model: str = "wukong") -> ConfigDict:
    """The run of a model: "wukong", "lattice", or one of `multi_domain_sets.BASELINES`."""
    return use_model(start_movielens_small(), model, SMALL_WUKONG, ("history",))

"""Wukong on MovieLens latest-small (2018-09): 3 ages of films x click and like, with earlier clicks of the user.

Command:   python scripts/convert_movielens.py --input=FOLDER --output=data/movielens_small.csv
           python scripts/train.py --config=public/movielens_small --workdir=runs/movielens_small
           --config.data.path=data/movielens_small.csv
           FOLDER holds ratings.csv and movies.csv (plain or .gz) of any release that has both
           `:lattice`, `:hstu`, `:mmoe`, `:ple`, `:star`, ... are other models (multi_domain_sets.py)
Data:      100,836 ratings of 610 users. More than 3 stars are a click, more than 4 a like, as in M3oE, whose code
           however rounds half stars down first (3.5 is 3, no click). The domain is the film's age when rated: up to 4
           years, 5 to 14, or more (31,578 / 35,684 / 33,574 rows). Rows are split by time, 80 / 10 / 10 %. Nine of ten
           test rows are from users without training rows, so the user id is no feature (it groups rows for GAUC).
           Features of a user are the latest 20 clicked films, the number of ratings and the share of clicks, all from
           earlier seconds. According to GroupLens, this is a data set for development, not for research results.
Expected:  test AUC click 0.773 (new 0.704, middle 0.761, old 0.835), like 0.712 (0.635, 0.690, 0.785), mean GAUC 0.656
           (2026-11-28); one seed, settings not searched, except that the tables' learning rate was lowered once on the
           validation rows; 16 seconds of CPU time. With seed 0, `:hstu` has a mean test AUC of 0.703, `:lattice` 0.671
           (Wukong 0.743): both read the history event by event, at six and nine times Wukong's FLOPs, and overfit
"""

from ml_collections import ConfigDict

from .multi_domain_sets import SMALL_WUKONG, start_movielens_small, use_model


def get_config(model: str = "wukong") -> ConfigDict:
    """Returns the config of a model: "wukong", "lattice", "hstu", or one of `multi_domain_sets.BASELINES`."""
    return use_model(start_movielens_small(), model, SMALL_WUKONG, ("history",), target=("movie_id", "genres"))

"""Wukong on MovieLens-1M under the protocol of M3oE (arXiv 2404.18465): 3 ages of users x click and like.

Command:   python scripts/convert_movielens.py --input=ml-1m --output=data/movielens_1m.csv
           python scripts/train.py --config=public/movielens_1m --workdir=runs/movielens_1m
           --config.data.path=data/movielens_1m.csv
           ml-1m is the folder of grouplens.org's ml-1m.zip (ratings.dat, movies.dat, users.dat)
           `:lattice`, `:mmoe`, `:ple`, `:star`, ... are other models (multi_domain_sets.py)
Data:      1,000,209 ratings. A rating above 3 is a click, above 4 a like. The domain is the age group: 1 or 18 / 25 /
           35 and above. Features are those of M3oE: user, film, gender, occupation, zip, first genre, domain, and age
           as a number (standardised; in M3oE scaled to 0 to 1). Rows are split at 80 and 90 % in the order of M3oE's
           file, which is sorted by user. Test users are therefore new; only their gender, age, occupation and zip are
           known. We derived this order from a public sample of such a file and the code that wrote it; `--order=file`
           has the order of ratings.dat, which is also sorted by user. The user's history is in the CSV file, but is no
           feature here.
Expected:  not run, because the data was not available. Settings are ours and not searched
"""

from ml_collections import ConfigDict

from .multi_domain_sets import M3OE_WUKONG, start_movielens_1m, use_model


def get_config(model: str = "wukong") -> ConfigDict:
    """Returns the config of a model: "wukong", "lattice", or one of `multi_domain_sets.BASELINES`."""
    return use_model(start_movielens_1m(), model, M3OE_WUKONG)

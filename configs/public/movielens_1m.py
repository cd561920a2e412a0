"""Wukong on MovieLens-1M under the protocol of M3oE (arXiv 2404.18465): 3 ages of users x click and like.

Command:   python scripts/convert_movielens.py --input=ml-1m --output=data/movielens_1m.csv
           python scripts/train.py --config=public/movielens_1m --workdir=runs/movielens_1m
           --config.data.path=data/movielens_1m.csv
           ml-1m is the folder of grouplens.org's ml-1m.zip (ratings.dat, movies.dat, users.dat)
           `:lattice`, `:mmoe`, `:ple`, `:star`, ... are other models (multi_domain_sets.py)
Data:      1,000,209 ratings. click: above 3, like: above 4. Domain: age group 1 or 18 / 25 / 35 and up. Features as
           M3oE's: user, film, gender, occupation, zip, first genre, domain, and age as a number (standardised; there
           scaled to 0 to 1). Cut at 80 and 90 % of the rows in the order of M3oE's file, which has one user after the
           other: test users are new, and only their gender, age, occupation and zip are known. That order is read off a
           public sample of such a file and the code that wrote it; `--order=file` gives that of ratings.dat, by user
           too. What the user did before is in the CSV and not among these features.
Expected:  not run: the data was not at hand. Settings are ours and not searched
"""

from ml_collections import ConfigDict

from .multi_domain_sets import M3OE_WUKONG, start_movielens_1m, use_model


def get_config(model: str = "wukong") -> ConfigDict:
    """The run of a model: "wukong", "lattice", or one of `multi_domain_sets.BASELINES`."""
    return use_model(start_movielens_1m(), model, M3OE_WUKONG)

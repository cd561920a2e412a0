"""Wukong on MovieLens-1M under the protocol of M3oE (arXiv 2404.18465): 3 ages of users x click and like.

Command:   python scripts/convert_movielens.py --input=ml-1m --output=data/movielens_1m.csv
           python scripts/train.py --config=configs/movielens_1m.py --workdir=runs/movielens_1m
           --config.data.path=data/movielens_1m.csv
           ml-1m is the folder of grouplens.org's ml-1m.zip (ratings.dat, movies.dat, users.dat)
           `:lattice`, `:mmoe`, `:ple`, `:star`, ... are other models (configs/parts/multi_domain_sets.py)
Data:      1,000,209 ratings. click: above 3, like: above 4. Domain: age group 1 or 18 / 25 / 35 and up. Features as
           M3oE's: user, film, gender, occupation, zip, first genre, domain, and age as a number (standardised; there
           scaled to 0 to 1). Cut at 80 and 90 % of the rows in the order of M3oE's file, which has one user after the
           other: test users are new, and only their gender, age, occupation and zip are known. That order is read off a
           public sample of such a file and the code that wrote it; `--order=file` gives that of ratings.dat, by user
           too. What the user did before is in the CSV and not among these features.
Published: test AUC (%), M3oE's Table 2, means of 5 seeds; d1 to d3 are the domains; AUC and LL (log loss x 100) are the
           means of six such cells, so compare the mean of `<domain>/<objective>/auc`, not `auc`, which pools domains
                        d1 clk d1like d2 clk d2like d3 clk d3like    AUC     LL
           MLP for each  75.02  76.40  76.27  78.66  73.21  74.15  75.62  51.51
           ShBot-MTL     75.36  76.25  75.90  78.40  72.51  73.30  75.28  56.39
           PLE-MTL       75.42  76.23  75.87  78.32  72.73  72.49  75.18  56.49
           MMoE-MTL      75.35  76.96  76.58  78.73  73.19  74.63  75.90  51.27
           AdaTT         72.54  74.24  74.12  73.01  69.75  70.25  72.32  58.72
           AdaTT-sp      72.49  73.51  76.04  77.59  73.04  74.26  74.49  54.65
           ShBot-MDL     75.70  76.50  76.58  78.10  73.88  74.76  75.92  51.53
           MMoE-MDL      75.77  76.50  76.71  78.37  73.92  75.16  76.08  51.48
           PLE-MDL       75.64  76.19  76.48  78.14  73.73  74.85  75.84  52.00
           STAR          75.89  76.85  76.87  78.47  73.68  74.70  76.08  51.11
           ShBot-MDMT    75.94  77.25  76.56  78.63  73.97  75.21  76.26  50.96
           MMoE-MDMT     76.07  77.27  76.86  78.67  73.83  75.41  76.35  51.02
           PLE-MDMT      75.83  76.95  76.04  78.48  73.67  75.09  75.68  51.90
           M2M           74.12  75.35  75.08  77.13  72.11  73.78  74.59  54.14
           M3oE          76.61  78.13  77.51  79.33  74.47  76.09  77.02  50.71
           D = 16 and rate 1e-2 there, in batches of 40,960 (its code)
Expected:  not run: the data was not at hand. Settings are ours and not searched
"""

from pathlib import Path

from ml_collections import ConfigDict

from wukong_jax.config import load_config_module

PARTS = load_config_module(Path(__file__).with_name("parts") / "multi_domain_sets.py")


def get_config(model: str = "wukong") -> ConfigDict:
    """The run of a model: "wukong", "lattice", or one of `PARTS.BASELINES`."""
    return PARTS.use_model(PARTS.start_movielens_1m(), model, PARTS.M3OE_WUKONG)

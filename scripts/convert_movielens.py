"""Joins a MovieLens release (1M, or one with `ratings.csv`) to one CSV of rating rows with domains and histories.

    python scripts/convert_movielens.py --input=ml-1m --output=data/movielens_1m.csv

The schemas movielens_small (csv releases) and movielens_1m read it. Prints the rows of each domain.
"""

import argparse

from wukong_jax.cli.command_line import run_script


def main() -> None:
    """Parses, converts, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, help="the release's folder")
    parser.add_argument("--output", required=True, help="the CSV file to make")
    parser.add_argument(
        "--order",
        choices=("time", "file", "joined"),
        help="of the rows: by time, as the ratings' file, or as M3oE's joined file (default: time; of 1M: joined)",
    )
    arguments = parser.parse_args()
    from wukong_jax.data.raw.movielens_rows import convert_movielens

    for domain, rows in convert_movielens(arguments.input, arguments.output, arguments.order).items():
        print(f"{domain:<12}{rows:>12,} rows")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    run_script(main)

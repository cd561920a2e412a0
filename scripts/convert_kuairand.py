"""Joins the logs, users and videos of KuaiRand-Pure to one Parquet file of impressions.

    python scripts/convert_kuairand.py --input=KuaiRand-Pure/data --output=data/kuairand_pure.parquet

The schema kuairand_pure reads it. Prints the rows of each tab; M3oE counts 178,087, 2,236,414 and 93,165.
"""

import argparse

from wukong_jax.cli.command_line import run_script


def main() -> None:
    """Parses, converts, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, help="the release's data folder")
    parser.add_argument("--output", required=True, help="the Parquet file to make")
    arguments = parser.parse_args()
    from wukong_jax.data.raw.kuairand_rows import convert_kuairand

    for tab, rows in convert_kuairand(arguments.input, arguments.output).items():
        print(f"tab {tab:<4}{rows:>12,} rows")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    run_script(main)

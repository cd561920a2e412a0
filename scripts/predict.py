"""Scores the rows of a raw file: probabilities in input order, one line a row.

    python scripts/predict.py --workdir=runs/mine --input=rows.csv --output=scores.csv

The input has the layout of the run's raw training files (a generated data set: its row blocks' schema); labels may be
missing. The output has a header with the objectives' names, and is written aside and renamed when whole.
"""

import argparse
from pathlib import Path

from wukong_jax.cli.command_line import run_script


def main() -> None:
    """Parses, restores, scores, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, help="the run's folder")
    parser.add_argument("--input", required=True, help="a raw file, as the run was trained on")
    parser.add_argument("--output", required=True, help="the file of probabilities to write")
    parser.add_argument("--data", help="row blocks (for their vocabularies), if they have moved since training")
    arguments = parser.parse_args()
    from wukong_jax.runs.open_run import open_run
    from wukong_jax.runs.prediction import predict_file

    rows = predict_file(open_run(arguments.workdir, arguments.data), Path(arguments.input), Path(arguments.output))
    print(f"wrote {rows:,} rows to {arguments.output}")


if __name__ == "__main__":
    run_script(main)

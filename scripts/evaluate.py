"""Restores a run's best state and scores a split: one JSON object on stdout.

python scripts/evaluate.py --workdir=runs/mine [--split=test] [--data=FOLDER]
"""

import argparse
import json

from wukong_jax.cli.command_line import run_script


def main() -> None:
    """Parses, restores, scores, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, help="the run's folder")
    parser.add_argument("--split", default="test", choices=("train", "validation", "test"), help="default: test")
    parser.add_argument("--data", help="row blocks, if they have moved since training")
    arguments = parser.parse_args()
    from wukong_jax.metrics.metric_names import replace_nan_by_none
    from wukong_jax.runs.open_run import open_run

    opened = open_run(arguments.workdir, arguments.data)
    line = {"step": int(opened.state.step), "split": arguments.split, **opened.evaluate(arguments.split)}
    print(json.dumps(replace_nan_by_none(line)))


if __name__ == "__main__":
    run_script(main)

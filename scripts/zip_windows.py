"""Lattice Zipper: row blocks of impressions and a conversion log to row blocks that mix attribution windows.

    python scripts/zip_windows.py --impressions=DIR --conversions=FILE --objective=conversion --output=OUT
        [--windows=1h,1d,7d] [--shares=0.2,0.3,0.5] [--now=SECONDS] [--policy=1d] [--test_conversions=FILE]

Each training impression is judged by one window and emitted when that window closes; OUT holds, in emission order, the
ones emitted by the cut-off. Every delayed objective becomes one objective a window, as conversion@1h, and the last of
them serves. Train on OUT with config.data.format = "blocks" and config.data.path = OUT.

Validation and test rows get the labels of all windows where their split's conversion log is given; else the longest
window's alone, which is their final label. Prints what each policy emits by the cut-off; OUT/report.json has it too.
"""

import argparse
from typing import Any

from wukong_jax.cli.command_line import run_script


def main() -> None:
    """Parses, zips, prints."""
    arguments = _build_parser().parse_args()
    from lattice.windows.attribution_windows import AttributionWindows
    from lattice.windows.zipper import ZipperSettings, write_zipped
    from wukong_jax.data.blocks.conversion_log import load_conversion_log

    settings = ZipperSettings(
        objectives=tuple(arguments.objective.split(",")),
        windows=AttributionWindows(tuple(arguments.windows.split(",")), arguments.shares, arguments.seed),
        policy=arguments.policy,
        now=arguments.now,
        signature=tuple(arguments.signature.split(",")),
        last_rows=arguments.last_rows,
    )
    paths = {
        "train": arguments.conversions,
        "validation": arguments.validation_conversions,
        "test": arguments.test_conversions,
    }
    logs = {split: load_conversion_log(path) for split, path in paths.items() if path is not None}
    zipped = write_zipped(arguments.impressions, logs, arguments.output, settings)["zipper"]
    _print_policies(zipped)
    serving = ", ".join(f"{objective} by {head}" for objective, head in zipped["serving"].items())
    print(f"wrote {arguments.output}: policy {zipped['policy']}, serving {serving}")


def _print_policies(zipped: dict[str, Any]) -> None:
    print(f"cut-off {zipped['now']}\npolicy      emitted  not yet  age at emission  positives")
    for name, counts in zipped["policies"].items():
        positives = sum(sum(window["positives"]) for window in counts["by_window"].values())
        age = "-" if counts["emitted"] == 0 else f"{counts['mean_age_at_emission'] / 3600:.2f} h"
        print(f"{name:8} {counts['emitted']:10} {counts['not_yet_emitted']:8} {age:>16} {positives:10}")


def _parse_shares(text: str) -> tuple[float, ...]:
    return tuple(float(share) for share in text.split(","))


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impressions", required=True, help="row blocks, training rows in time order")
    parser.add_argument("--conversions", required=True, help="conversion log of the training rows (.npz)")
    parser.add_argument("--validation_conversions", help="conversion log of the validation rows")
    parser.add_argument("--test_conversions", help="conversion log of the test rows")
    parser.add_argument("--objective", required=True, help="the delayed objective; several: comma-separated")
    parser.add_argument("--windows", default="90m,1d,7d", help="ascending, units s, m, h, d, w (default: 90m,1d,7d)")
    parser.add_argument("--shares", type=_parse_shares, default=(), help="of the windows, sum 1 (default: equal)")
    parser.add_argument(
        "--now", type=int, help="cut-off, seconds (default: the time of the first validation or test row)"
    )
    parser.add_argument(
        "--policy",
        default="zipper",
        help="zipper, or one window for all impressions: its name, or longest (default: zipper)",
    )
    parser.add_argument(
        "--signature",
        default="user,item",
        help="id columns that identify an impression together with its timestamp (default: user,item)",
    )
    parser.add_argument("--last_rows", type=int, help="only so many training rows, the latest emitted (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the windows' draw (default: 0)")
    parser.add_argument("--output", required=True, help="the folder to make; must not exist")
    return parser


if __name__ == "__main__":
    run_script(main)

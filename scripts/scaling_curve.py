"""Trains every (model, size, seed) of a sweep after a search of each model's settings, and draws the curves.

    python scripts/scaling_curve.py --config=configs/scaling_small.py --workdir=runs/small [--config.run.KEY=value]
    python scripts/scaling_curve.py --config=F --workdir=W --shard=0/4     one of four machines over one file system
    python scripts/scaling_curve.py --config=F --workdir=W --only_report=true --output=docs/results/NAME

With several shards a search is one shard's, and the others wait for it before they train their part of the curves
(--wait=false: they end instead, and the same command goes on later). Every unit resumes by itself, is skipped when it
is done, and may fail or explode alone; the command can be stopped at any time and started again. Leaves report.html,
pictures, CSV files and points.json in the folder, of what there is so far; `--output` keeps results.json, pictures and
CSV files in a second one.
"""

import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from wukong_jax.cli.command_line import parse_config_dict_flags, run_script, take_flag
from wukong_jax.errors import UserError

if TYPE_CHECKING:
    from wukong_jax.scaling.sweep.sweep import Sweep

WAIT_SECONDS = 30.0  # between two looks at other shards' units


def main() -> None:
    """Parses, trains this shard's part, reports on the whole."""
    arguments = list(sys.argv)
    shard, shards = parse_shard(take_flag(arguments, "shard", "0/1"))
    output = take_flag(arguments, "output", "")
    only_report = parse_switch("only_report", take_flag(arguments, "only_report", "false"))
    wait = parse_switch("wait", take_flag(arguments, "wait", "true"))
    mapping, workdir = parse_config_dict_flags(arguments, __doc__ or "")
    from wukong_jax.scaling.report.sweep_report import keep_results, report_sweep
    from wukong_jax.scaling.sweep.config import build_sweep_config
    from wukong_jax.scaling.sweep.sweep import Sweep

    sweep = Sweep(build_sweep_config(mapping), workdir, say=lambda text: print(text, flush=True))
    if not only_report:
        train_shard(sweep, shard, shards, wait)
    print(f"report: {report_sweep(sweep)}")
    if sweep.failed:
        errors = sweep.folder / next(iter(sweep.failed)).folder / "error.txt"
        raise UserError(f"{len(sweep.failed)} units failed, such as {errors}; the same command tries them again")
    if output:
        missing = sweep.count_missing()
        print(f"kept{f', without {missing} units that are missing' if missing else ''}: ", end="")
        print(keep_results(sweep, Path(output), "python " + " ".join(sys.argv)))


def train_shard(sweep: "Sweep", shard: int, shards: int, wait: bool) -> None:
    """Trains a shard's part; what waits for other shards' searches too, once those have ended."""
    while sweep.run(shard, shards) and not sweep.failed:
        searching = sweep.searching()
        names = ", ".join(searching)
        if not wait:
            print(f"left for a later start: the curves of {names}, whose searches other shards have not ended")
            return
        print(f"waiting for other shards to end their searches of {names}; they must run, too", flush=True)
        while sweep.searching() == searching:
            time.sleep(WAIT_SECONDS)


def parse_switch(flag: str, text: str) -> bool:
    """The value of a flag that is on or off."""
    if text not in ("true", "false"):
        raise UserError(f"--{flag} = {text!r}: expected true or false")
    return text == "true"


def parse_shard(text: str) -> tuple[int, int]:
    """The numbers of "i/n"."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise UserError(f"--shard = {text!r}: expected i/n with i from 0 to n - 1, such as 0/4")
    return int(match[1]), int(match[2])


if __name__ == "__main__":
    run_script(main)

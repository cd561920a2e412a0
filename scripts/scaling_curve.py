"""Trains every (model, size, seed) of a sweep after a search of each model's settings, and draws the curves.

    python scripts/scaling_curve.py --config=configs/scaling_small.py --workdir=runs/small [--config.run.KEY=value]
    python scripts/scaling_curve.py --config=F --workdir=W --shard=0/4     one of four machines over one file system
    python scripts/scaling_curve.py --config=F --workdir=W --only_report=true --output=docs/results/NAME

Every unit resumes by itself, is skipped when it is done, and may fail or explode alone; the command can be stopped at
any time and started again. Leaves report.html, pictures, CSV files and points.json in the folder, of what there is so
far; `--output` keeps results.json, pictures and CSV files in a second one.
"""

import re
import sys
from pathlib import Path

from wukong_jax.command_line import parse_config_dict_flags, run_script, take_flag
from wukong_jax.errors import UserError


def main() -> None:
    """Parses, trains this shard's part, reports on the whole."""
    arguments = list(sys.argv)
    shard, shards = parse_shard(take_flag(arguments, "shard", "0/1"))
    output = take_flag(arguments, "output", "")
    only_report = parse_switch(take_flag(arguments, "only_report", "false"))
    mapping, workdir = parse_config_dict_flags(arguments, __doc__ or "")
    from wukong_jax.scaling.sweep import Sweep
    from wukong_jax.scaling.sweep_config import build_sweep_config
    from wukong_jax.scaling.sweep_report import keep_results, report_sweep

    sweep = Sweep(build_sweep_config(mapping), workdir, say=lambda text: print(text, flush=True))
    if not only_report:
        waiting = sweep.run(shard, shards)
        if waiting:
            print(
                f"{waiting} models wait for their search in another shard; start this command again when it has ended"
            )
    print(f"report: {report_sweep(sweep)}")
    if sweep.failed:
        errors = sweep.folder / next(iter(sweep.failed)).folder / "error.txt"
        raise UserError(f"{len(sweep.failed)} units failed, such as {errors}; the same command tries them again")
    if output:
        print(f"kept: {keep_results(sweep, Path(output), 'python ' + ' '.join(sys.argv))}")


def parse_switch(text: str) -> bool:
    """The value of --only_report."""
    if text not in ("true", "false"):
        raise UserError(f"--only_report = {text!r}: expected true or false")
    return text == "true"


def parse_shard(text: str) -> tuple[int, int]:
    """The numbers of "i/n"."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise UserError(f"--shard = {text!r}: expected i/n with i from 0 to n - 1, such as 0/4")
    return int(match[1]), int(match[2])


if __name__ == "__main__":
    run_script(main)

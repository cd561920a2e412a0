"""Run a scaling sweep: search settings, train every model, size and seed, and draw the curves.

    wukong-jax scaling_curve --config=scaling/small --workdir=runs/small [--config.run.KEY=value]
    wukong-jax scaling_curve --config=F --workdir=W --shard=0/4     one of four machines with a shared file system
    wukong-jax scaling_curve --config=F --workdir=W --only_report --output=docs/results/NAME

Several processes started with --processes and --process, or by a cluster's launcher, take a shard each; they do not
train together. With several shards, each search is trained by one shard, or with config.search.structure.at_once by
all. The others wait for it before they train their part of the curves; with --wait=false they end instead, and running
the command again continues. The command can be stopped at any time and started again: units resume, and complete ones
are skipped. If a unit fails or its loss explodes, the others still run. Writes report.html, pictures, CSV files and
points.json with the results so far.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

from wukong_jax.cli.flags import CommandLine
from wukong_jax.cli.settings import RunFlags, TeamFlags
from wukong_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(RunFlags, TeamFlags):
    """The command's flags."""

    shard: Annotated[
        str | None,
        "i/n: train only part i of n, with i from 0 (if not given: that of --process and --processes, or of the "
        "cluster's launcher, else 0/1)",
    ] = None
    wait: Annotated[bool | None, "with several shards: wait for searches of other shards (default: true)"] = None
    only_report: Annotated[bool, "train nothing, only write the report of the results so far"] = False
    output: Annotated[str, "second folder for results.json, pictures and CSV files"] = ""
    command: CommandLine

    def __post_init__(self) -> None:
        """Rejects flags that would have no effect."""
        for name in ("shard", "wait"):
            if self.only_report and getattr(self, name) is not None:
                raise UserError(f"--{name}: is not read with --only_report, which trains nothing; leave it out")
        for name in ("coordinator", "processes", "process"):
            if getattr(self, name) not in (None, "") and (self.shard is not None or self.only_report):
                other = "only_report" if self.only_report else "shard"
                raise UserError(f"--{name}: is not read with --{other}; leave one of them out")


def run(settings: Settings) -> None:
    """Trains this shard's part, and writes the report of the whole sweep."""
    from wukong_jax.cli.joining import take_part
    from wukong_jax.cli.run_config import load_config_dict
    from wukong_jax.scaling.report.sweep_report import keep_results, report_sweep
    from wukong_jax.scaling.sweep.config import build_sweep_config
    from wukong_jax.scaling.sweep.shards import parse_shard, train_shard
    from wukong_jax.scaling.sweep.sweep import Sweep

    if settings.shard is not None or settings.only_report:
        shard, shards = parse_shard(settings.shard or "0/1")
    else:
        shard, shards = take_part(settings)
    if settings.wait is not None and shards == 1:
        raise UserError("--wait: is not read without --shard; there are no other shards to wait for; leave it out")
    if settings.shard is None and shards > 1:
        _say(f"process {shard} of {shards} trains shard {shard}/{shards} of the sweep, on its own devices")
    sweep = Sweep(build_sweep_config(load_config_dict(settings)), settings.workdir, say=_say)
    if not settings.only_report:
        train_shard(sweep, shard, shards, settings.wait is not False, _say)
    print(f"report: {report_sweep(sweep)}")
    if sweep.failed:
        errors = sweep.folder / next(iter(sweep.failed)).folder / "error.txt"
        raise UserError(f"{len(sweep.failed)} units failed, such as {errors}; run the same command to retry them")
    if settings.output:
        missing = sweep.count_missing()
        print(f"kept{f', without {missing} missing units' if missing else ''}: ", end="")
        print(keep_results(sweep, Path(settings.output), settings.command))


def _say(text: str) -> None:
    print(text, flush=True)

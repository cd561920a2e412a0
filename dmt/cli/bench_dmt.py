"""Time training steps with and without towers over emulated slow links.

    wukong-jax bench_dmt --config=dmt/planted [--hosts=4] [--chips=2]
                         [--output=docs/results/dmt_speedup] [--quality=docs/results/dmt_quality_planted]
    wukong-jax bench_dmt --only_join --output=docs/results/dmt_speedup --quality=docs/results/dmt_quality_planted

Each host is a process in a network namespace of this machine, and `tc tbf` limits the links. The result is therefore a
speed-up over emulated links: the share of a step spent on links is comparable to a real cluster, the rates are not. The
bytes sent over the links are counted. All variants train the same model on the same batches and are timed in turns.
Requires root and iproute2.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Literal

from wukong_jax.cli.flags import CommandLine
from wukong_jax.errors import UserError
from wukong_jax.ranges import Above, AtLeast

_RATES: tuple[float | Literal["unlimited"], ...] = ("unlimited", 1000.0, 500.0, 300.0, 200.0, 150.0, 100.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The command's flags."""

    config: Annotated[str, "config with the same variants as dmt/planted"] = ""
    hosts: Annotated[int, "emulated hosts", AtLeast(1)] = 4
    chips: Annotated[int, "CPU devices per host", AtLeast(1)] = 2
    rates: Annotated[
        tuple[float | Literal["unlimited"], ...],
        "link rates in Mbit/s; the first must be unlimited, the reference for the others",
    ] = _RATES
    compressions: Annotated[tuple[int, ...], "compression ratios of the tower modules", AtLeast(1)] = (1, 2, 4, 8, 16)
    batch: Annotated[int, "rows of the global batch", AtLeast(1)] = 4096
    rounds: Annotated[int, "turns of each variant at each rate", AtLeast(1)] = 5
    steps: Annotated[int, "timed steps per turn", AtLeast(1)] = 3
    quality: Annotated[str, "results folder of compare_variants with the test AUC of each variant"] = ""
    output: Annotated[str, "folder for results.json and the picture"] = ""
    only_join: Annotated[bool, "measure nothing, only join --quality to the results in --output"] = False
    command: CommandLine

    def __post_init__(self) -> None:
        """Rejects flags that would have no effect, and rates without a reference."""
        if self.only_join:
            self._refuse_measuring()
        elif not self.config:
            raise UserError("--config: none given; name a config such as dmt/planted")
        if self.quality and not self.output:
            raise UserError(f"--quality = {self.quality!r}: is not read without --output; leave it out")
        if not self.rates or self.rates[0] != "unlimited" or "unlimited" in self.rates[1:]:
            raise UserError(
                "--rates: must begin with unlimited, the reference for the others, and contain it only once"
            )
        if any(rate != "unlimited" and not Above(0).holds(rate) for rate in self.rates):
            raise UserError("--rates: each must be above 0 Mbit/s")
        if not self.compressions:
            raise UserError("--compressions: give one or more")
        if self.rounds * self.steps < 2:
            raise UserError(f"--rounds = {self.rounds}, --steps = {self.steps}: at least 2 timed steps in total")

    def _refuse_measuring(self) -> None:
        for field in dataclasses.fields(self):
            read = ("quality", "output", "only_join", "command")
            if field.name not in read and getattr(self, field.name) != field.default:
                raise UserError(f"--{field.name}: is not read with --only_join, which measures nothing; leave it out")
        if not self.quality or not self.output:
            raise UserError("--only_join: needs --quality and --output")


def run(settings: Settings) -> None:
    """Builds the emulated cluster, times the variants, and writes results and picture."""
    from dmt.bench.emulated_cluster import EmulatedCluster
    from dmt.bench.step_times import list_variants, measure, read_quality, rejoin_quality, write_speedup
    from dmt.bench.variant_configs import place_variant
    from wukong_jax.cli.run_config import load_run_config

    quality = read_quality(settings.quality)
    if settings.only_join:
        rejoin_quality(Path(settings.output), quality)
        return
    configs = {}
    variants = list_variants(settings.compressions)
    for variant in variants:
        config = load_run_config(f"{settings.config}:{variant.config}")
        configs[variant.name] = place_variant(config, variant, settings.hosts, settings.chips, settings.batch)
    rates = [None if rate == "unlimited" else rate for rate in settings.rates]
    with EmulatedCluster(settings.hosts, settings.chips) as cluster:
        cluster.start([sys.executable, "-m", "dmt.bench.worker"])
        for rows in measure(cluster, variants, configs, rates, settings.rounds, settings.steps, print):
            if settings.output:
                write_speedup(Path(settings.output), settings.command, rows, quality)

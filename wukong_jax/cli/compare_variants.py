"""Train variants of a config with several seeds, and keep the mean and spread of their metrics.

    wukong-jax compare_variants --config=F --variants=a,b --seeds=0,1,2 --workdir=W --output=docs/results/NAME

Variant `a` is the config `F:a`. The folder of each run is W/<variant>/seed_<n>. The command can be stopped at any time
and started again: runs resume, and results.json is updated whenever a variant is complete. Separate variants whose
names contain commas by semicolons.
"""

import dataclasses
import re
from pathlib import Path
from typing import Annotated, Any

from wukong_jax.cli.flags import CommandLine
from wukong_jax.cli.settings import SeedFlags
from wukong_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(SeedFlags):
    """The command's flags."""

    variants: Annotated[tuple[str, ...], "variants of the config to train"]
    command: CommandLine

    def __post_init__(self) -> None:
        """Checks that the variants are distinct."""
        super().__post_init__()
        if not self.variants or len(set(self.variants)) != len(self.variants):
            raise UserError(f"--variants = {','.join(self.variants)!r}: names one twice, or none; leave it out")


def run(settings: Settings) -> None:
    """Trains every variant with every seed, and writes results.json."""
    from wukong_jax.cli.run_config import build_config
    from wukong_jax.reports.kept_results import format_mean, summarise_seeds, write_results
    from wukong_jax.scaling.repeats import train_seeds

    configs = {variant: build_config(settings, variant) for variant in settings.variants}
    rows: list[dict[str, Any]] = []
    for variant, config in configs.items():
        summaries = train_seeds(config, f"{settings.workdir}/{re.sub('[/,]', '_', variant)}", settings.seeds)
        rows.append({"variant": variant} | summarise_seeds(summaries))
        path = write_results(Path(settings.output), settings.command, rows)
        print(f"{variant}: test AUC {format_mean(rows[-1], 'test_auc')} (in {path})")

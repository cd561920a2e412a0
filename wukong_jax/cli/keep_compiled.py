"""Collect the results of compile_for_cluster in a results.json, with one row per file.

wukong-jax keep_compiled --output=docs/results/compile_ahead STEP.json [STEP.json ...]
"""

import dataclasses
from pathlib import Path
from typing import Annotated

from wukong_jax.cli.flags import CommandLine, Positional


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The command's flags."""

    output: Annotated[str, "folder for results.json, such as docs/results/NAME"]
    steps: Annotated[tuple[str, ...], "files written by compile_for_cluster", Positional()]
    command: CommandLine


def run(settings: Settings) -> None:
    """Reads the files and writes results.json."""
    from wukong_jax.clusters.compile_report import flatten_findings, load_findings
    from wukong_jax.reports.kept_results import write_results

    rows = [flatten_findings(load_findings(step)) for step in settings.steps]
    print(f"wrote {write_results(Path(settings.output), settings.command, rows)}")

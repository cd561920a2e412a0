"""Keep what compile_for_cluster found as rows of a results.json, one a file.

wukong-jax keep_compiled --output=docs/results/compile_ahead STEP.json [STEP.json ...]
"""

import dataclasses
from pathlib import Path
from typing import Annotated

from wukong_jax.cli.flags import CommandLine, Positional


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The command's flags."""

    output: Annotated[str, "the folder of results.json, such as docs/results/NAME"]
    steps: Annotated[tuple[str, ...], "files that compile_for_cluster wrote", Positional()]
    command: CommandLine


def run(settings: Settings) -> None:
    """Reads, flattens, writes."""
    from wukong_jax.clusters.compile_report import flatten_findings, load_findings
    from wukong_jax.reports.kept_results import write_results

    rows = [flatten_findings(load_findings(step)) for step in settings.steps]
    print(f"wrote {write_results(Path(settings.output), settings.command, rows)}")

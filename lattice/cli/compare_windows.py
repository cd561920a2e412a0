"""Compare attribution policies: train a network on the rows that each emits, and test it.

    wukong-jax compare_windows --config=lattice/zipper_planted --objective=conversion --windows=6h,1d,7d
        --policies=zipper,6h,1d,7d --seeds=0,1,2 --workdir=W --output=docs/results/NAME [--shares=0.2,0.2,0.6]
        [--config.key=value]

The config's rows are impressions with conversion logs. The rows emitted by each policy are written to
W/rows/<policy>; all policies train on the same number of rows, the latest emitted. The serving head of each policy is
tested against the label of the longest window, which should therefore cover the delays in the log. The last row, "final
labels", is a network trained with the final label of every impression: an unreachable reference. Runs resume.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from wukong_jax.cli.flags import CommandLine
from wukong_jax.cli.settings import SeedFlags
from wukong_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(SeedFlags):
    """The command's flags."""

    objective: Annotated[str, "delayed objective"]
    windows: Annotated[tuple[str, ...], "attribution windows in ascending order, with units s, m, h, d, w"]
    policies: Annotated[tuple[str, ...], "policies: zipper, or names of windows"]
    shares: Annotated[tuple[float, ...], "shares of the windows, with sum 1 (default: equal)"] = ()
    command: CommandLine

    def __post_init__(self) -> None:
        """Checks that there are policies and that they are distinct."""
        super().__post_init__()
        if not self.policies or len(set(self.policies)) != len(self.policies):
            raise UserError(f"--policies = {','.join(self.policies)!r}: give one or more, none twice")


def run(settings: Settings) -> None:
    """Emits rows, trains and tests each policy, and writes results.json."""
    from lattice.windows.attribution_windows import AttributionWindows
    from lattice.windows.comparison import PolicyComparison
    from lattice.windows.zipper import ZipperSettings
    from wukong_jax.cli.run_config import build_config
    from wukong_jax.reports.kept_results import write_results

    zipper = ZipperSettings((settings.objective,), AttributionWindows(settings.windows, settings.shares))
    comparison = PolicyComparison(build_config(settings), Path(settings.workdir), zipper, settings.seeds)
    rows: list[dict[str, Any]] = []
    for row in comparison.compare(settings.policies):
        rows.append(row)
        path = write_results(Path(settings.output), settings.command, rows)
        losses = f"log loss {row['test_log_loss']:.5f}, calibration {row['test_calibration']:.4f}"
        print(f"{row['variant']}: {losses} (in {path})")

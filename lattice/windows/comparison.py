"""Compares attribution policies: a network is trained on the rows each emits by a cut-off, and tested on final labels.

All policies train on the same number of rows, the latest emitted ones: the number of the policy that has emitted the
fewest by the cut-off. A policy is tested with its serving head on test rows against the longest window's label. The
last row, "final labels", is a network that gets every impression's final label at once, with a schedule stretched to
its larger number of rows. No real system can have these labels in time; the row is an upper bound.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lattice.windows.serving_heads import evaluate_heads
from lattice.windows.zipper import ZipperSettings, load_report, write_zipped
from wukong_jax.config import RunConfig, stretch_schedule
from wukong_jax.data.blocks.conversion_log import load_conversion_log
from wukong_jax.data.planted.portfolios_folder import CONVERSION_FILES
from wukong_jax.reports.kept_results import summarise_values
from wukong_jax.runs.open_run import open_run
from wukong_jax.runs.rows import open_run_data, prepared_directory
from wukong_jax.runs.shared_rows import claim_made_folder, write_once
from wukong_jax.scaling.repeats import train_seeds
from wukong_jax.strict_mapping import to_mapping

METRICS = ("log_loss", "normalized_entropy", "auc", "calibration")
FINAL = "final labels"


class PolicyComparison:
    """Prepares the impressions once, writes the rows of each policy, and trains the networks."""

    def __init__(self, config: RunConfig, folder: Path, settings: ZipperSettings, seeds: Sequence[int]) -> None:
        """Prepares the impressions.

        Args:
          config: config of the network; its rows are impressions with conversion logs.
          folder: parent folder of all runs and rows.
          settings: one objective and the windows.
          seeds: seeds to train with.

        Raises:
          UserError: the folder holds different rows, or the rows cannot be prepared.
        """
        self.config, self.folder, self.settings, self.seeds = config, folder, settings, seeds
        impressions = prepared_directory(config.data, folder / "impressions")
        claim_made_folder(folder / "impressions", to_mapping(config.data), read_from=impressions)
        self.impressions = open_run_data(config.data, folder / "impressions", print)
        directory = self.impressions.directory
        self._logs = {split: load_conversion_log(directory / file) for split, file in CONVERSION_FILES.items()}
        claim_made_folder(folder / "rows", to_mapping(settings), {"impressions": self.impressions})

    def compare(self, policies: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Trains a network on the rows of each policy, and one on the final labels.

        Args:
          policies: "zipper", or names of windows.

        Yields:
          A row of results for each, when its runs have ended.
        """
        emitted = self._emit(policies[0], None)[1]["policies"]  # the report has the counts of all policies
        equal = min(counts["emitted"] for counts in emitted.values())
        for policy in [*policies, FINAL]:
            objective = self.settings.objectives[0]
            if policy == FINAL:
                rows, directory = self.impressions.splits["train"].rows, self.impressions.directory
                serving, truth, age = objective, objective, 0.0
            else:
                rows = equal
                directory, zipped = self._emit(policy, equal)
                serving, truth = zipped["serving"][objective], zipped["truth"][objective]
                age = zipped["policies"][zipped["policy"]]["mean_age_at_emission"]
            place = self.folder / policy.replace(" ", "_")
            stretched = stretch_schedule(self.config, rows / equal)
            stretched = dataclasses.replace(stretched, data=self.config.data.read_blocks(directory))
            train_seeds(stretched, place, self.seeds)
            row: dict[str, Any] = {"variant": policy, "seeds": list(self.seeds), "serving": serving}
            row |= {"hours_at_emission": age / 3600, "training_rows": rows}
            yield row | self._judge(place, serving, truth)

    def _emit(self, policy: str, last_rows: int | None) -> tuple[Path, dict[str, Any]]:
        """Writes a policy's rows unless they exist; returns (their folder, counts of the report)."""
        rows = self.folder / "rows" / ("all_emitted" if last_rows is None else policy)
        chosen = dataclasses.replace(self.settings, policy=policy, last_rows=last_rows)
        write_once(rows, functools.partial(write_zipped, self.impressions.directory, self._logs, rows, chosen))
        return rows, load_report(rows / "report.json")["zipper"]

    def _judge(self, place: Path, serving: str, truth: str) -> dict[str, Any]:
        """Returns mean, deviation and values over seeds of the serving head's test metrics."""
        folders = [f"{place}/seed_{seed}" for seed in self.seeds]
        judged = [evaluate_heads(open_run(folder), "test", {serving: truth})[serving] for folder in folders]
        row: dict[str, Any] = {}
        for metric in METRICS:
            row |= summarise_values(f"test_{metric}", [one[metric] for one in judged])
        return row

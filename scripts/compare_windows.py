"""Trains one network on the rows that each attribution policy emits by a cut-off; keeps what their heads are worth.

    python scripts/compare_windows.py --config=configs/zipper_planted.py --objective=conversion --windows=6h,1d,7d
        --policies=zipper,6h,1d,7d --seeds=0,1,2 --workdir=W --output=docs/results/NAME [--shares=0.2,0.2,0.6]
        [--config.key=value]

The config's rows are impressions with conversion logs; every policy's own are made in W/rows/<policy>. All train on
equally many rows, the latest emitted (what the longest window has by then is the least). A policy is judged by the
head that serves, on test rows, against the longest window's label, so let that window cover what the log has. The last
row, "final labels", is a network that had every impression's final label at once, and is judged by it, with a schedule
longer by as much as it has more rows: out of reach, a mark to measure by. Each run resumes like any.
"""

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from repeat_run import claim_made_folder, parse_seeds, train_seeds

from wukong_jax.cli.command_line import parse_config_flags, run_script, take_flag
from wukong_jax.config import stretch_schedule
from wukong_jax.errors import UserError
from wukong_jax.strict_mapping import to_mapping

METRICS = ("log_loss", "normalized_entropy", "auc", "calibration")
FINAL = "final labels"


def main() -> None:
    """Parses, zips, trains each policy, judges its serving head, writes results.json."""
    arguments = list(sys.argv)
    flags = {name: take_flag(arguments, name) for name in ("objective", "windows", "policies", "seeds", "output")}
    shares = parse_shares(take_flag(arguments, "shares", ""))
    config, workdir = parse_config_flags(arguments, __doc__ or "")
    from lattice.windows.attribution_windows import AttributionWindows
    from lattice.windows.serving_heads import evaluate_heads
    from lattice.windows.zipper import ZipperSettings, load_report, write_zipped
    from wukong_jax.data.blocks.conversion_log import load_conversion_log
    from wukong_jax.data.planted.portfolios_folder import CONVERSION_FILES
    from wukong_jax.reports.kept_results import write_results
    from wukong_jax.runs.open_run import open_run
    from wukong_jax.runs.rows import open_run_data

    folder, seeds = Path(workdir), parse_seeds(flags["seeds"])
    claim_made_folder(folder / "impressions", to_mapping(config.data))
    impressions = open_run_data(config.data, folder / "impressions", print)
    logs = {split: load_conversion_log(impressions.directory / file) for split, file in CONVERSION_FILES.items()}
    windows = AttributionWindows(tuple(flags["windows"].split(",")), shares)
    settings = ZipperSettings((flags["objective"],), windows)
    claim_made_folder(folder / "rows", to_mapping(settings) | {"impressions": impressions.fingerprint})

    def emit(policy: str, last_rows: int | None) -> tuple[Path, dict[str, Any]]:
        rows = folder / "rows" / ("all_emitted" if last_rows is None else policy)
        if not rows.exists():
            chosen = dataclasses.replace(settings, policy=policy, last_rows=last_rows)
            write_zipped(impressions.directory, logs, rows, chosen)
        return rows, load_report(rows / "report.json")["zipper"]

    policies = flags["policies"].split(",")
    emitted = emit(policies[0], None)[1]["policies"]  # counts every policy's
    equal = min(counts["emitted"] for counts in emitted.values())
    kept: list[dict[str, Any]] = []
    for policy in [*policies, FINAL]:
        if policy == FINAL:
            directory, serving, truth, age = impressions.directory, flags["objective"], flags["objective"], 0.0
        else:
            directory, zipped = emit(policy, equal)
            serving, truth = zipped["serving"][flags["objective"]], zipped["truth"][flags["objective"]]
            age = zipped["policies"][zipped["policy"]]["mean_age_at_emission"]
        place = folder / re.sub(" ", "_", policy)
        rows = impressions.splits["train"].rows if policy == FINAL else equal
        stretched = stretch_schedule(config, rows / equal)
        train_seeds(dataclasses.replace(stretched, data=config.data.read_blocks(directory)), place, seeds)
        judged = [evaluate_heads(open_run(f"{place}/seed_{seed}"), "test", {serving: truth})[serving] for seed in seeds]
        row: dict[str, Any] = {"variant": policy, "seeds": seeds, "serving": serving, "hours_at_emission": age / 3600}
        row["training_rows"] = rows
        for metric in METRICS:
            values = [one[metric] for one in judged]
            row |= {f"test_{metric}": float(np.mean(values)), f"test_{metric}_values": values}
            row[f"test_{metric}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
        kept.append(row)
        path = write_results(Path(flags["output"]), "python " + " ".join(sys.argv), kept)
        print(f"{policy}: log loss {row['test_log_loss']:.5f}, calibration {row['test_calibration']:.4f} (in {path})")


def parse_shares(text: str) -> tuple[float, ...]:
    """The windows' shares of a flag; empty: equal ones."""
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise UserError(f"--shares = {text}: expected one number a window, as 0.2,0.2,0.6") from None


if __name__ == "__main__":
    run_script(main)

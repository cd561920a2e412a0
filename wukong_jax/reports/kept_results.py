"""Kept results: an experiment's numbers with all that is needed to make them again."""

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from wukong_jax.files.whole_files import write_text_whole
from wukong_jax.metrics.metric_names import replace_nan_by_none

SUMMARISED = ("auc", "log_loss", "normalized_entropy", "calibration")


def summarise_seeds(summaries: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """One flat row for runs that differ in their seed alone.

    Args:
      summaries: seed -> `summary.json` of a finished run.

    Returns:
      For each split and metric (also of single objectives and domains) the mean and the sample standard deviation
      over seeds (`test_auc`, `test_auc_std`), the values themselves, and what ran. A single seed's deviation is None.
    """
    first = next(iter(summaries.values()))
    row: dict[str, Any] = {"model": first["name"], "seeds": list(summaries)}
    for split in ("validation", "test"):
        for metric in first.get(split, {}):
            if metric.rpartition("/")[2] in SUMMARISED:
                values = [summary[split][metric] for summary in summaries.values()]
                row[f"{split}_{metric}"] = float(np.mean(values))
                row[f"{split}_{metric}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
                row[f"{split}_{metric}_values"] = values
    for key in ("dense_parameters", "embedding_parameters", "train_flops_per_example", "training_rows"):
        row[key] = first[key]
    row["examples_seen"] = [summary["examples_seen"] for summary in summaries.values()]
    row["wall_seconds"] = [round(summary["wall_seconds"], 1) for summary in summaries.values()]
    return row


def write_results(
    folder: Path, command: str, rows: Sequence[Mapping[str, Any]], trained: Sequence[Mapping[str, str]] = ()
) -> Path:
    """Writes `results.json`: command, commit, machine, date and rows.

    Args:
      folder: `docs/results/<name>`.
      command: the command line that made the rows, from the project's root.
      rows: flat objects.
      trained: commits, machines and dates of the runs behind the rows, where those are not of this command's sitting.

    Returns:
      The file's path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    results = {
        "command": command,
        **describe_here(),
        **({"trained": list(trained)} if trained else {}),
        "rows": list(rows),
    }
    path = folder / "results.json"
    write_text_whole(path, json.dumps(replace_nan_by_none(results), indent=1) + "\n")
    return path


def describe_here() -> dict[str, str]:
    """What numbers made now owe themselves to: commit, machine and date."""
    device = jax.devices()[0]
    return {
        "commit": _read_commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {device.platform} {device.device_kind}, "
        f"JAX {jax.__version__}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _read_commit() -> str:
    """The checkout's commit, with "+" where files but kept results differ from it; "unknown" outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        status = ["git", "status", "--porcelain", "--", ".", ":!docs/results"]
        dirty = subprocess.run(status, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")

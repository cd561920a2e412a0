"""Writes `results.json`, the numbers of an experiment with everything needed to reproduce them."""

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
from wukong_jax.metrics.metric_names import format_metric, replace_nan_by_none

SUMMARISED = ("auc", "log_loss", "normalized_entropy", "calibration")


def summarise_seeds(summaries: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Summarises runs that differ only in their seeds in one flat row.

    Args:
      summaries: contents of `summary.json` of finished runs, by seed.

    Returns:
      For each split and metric (also of single objectives and domains), mean and sample standard deviation over seeds
      (`test_auc`, `test_auc_std`) and the single values; and what ran. With one seed, the standard deviation is None.
    """
    first = next(iter(summaries.values()))
    row: dict[str, Any] = {"model": first["name"], "seeds": list(summaries)}
    for split in ("validation", "test"):
        for metric in first.get(split, {}):
            if metric.rpartition("/")[2] in SUMMARISED:
                values = [summary[split][metric] for summary in summaries.values()]
                row |= summarise_values(f"{split}_{metric}", values)
    for key in ("dense_parameters", "embedding_parameters", "train_flops_per_example", "training_rows"):
        row[key] = first[key]
    row["examples_seen"] = [summary["examples_seen"] for summary in summaries.values()]
    row["wall_seconds"] = [round(summary["wall_seconds"], 1) for summary in summaries.values()]
    return row


def summarise_values(key: str, values: Sequence[float]) -> dict[str, Any]:
    """Returns the mean, the sample standard deviation (None for a single value) and the values, by keys of a row."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {key: float(np.mean(values)), f"{key}_std": deviation, f"{key}_values": values}


def format_mean(row: Mapping[str, Any], key: str, digits: int = 5) -> str:
    """Formats the mean and deviation of a metric in a row from `summarise_values`, or that it is not defined."""
    mean = format_metric(row[key], digits)
    return mean if mean == format_metric(None) else f"{mean} +- {row[f'{key}_std'] or 0:.{digits}f}"


def write_results(
    folder: Path,
    command: str,
    rows: Sequence[Mapping[str, Any]],
    trained: Sequence[Mapping[str, str]] = (),
    machine: str = "",
) -> Path:
    """Writes `results.json`: command, commit, machine, date and rows.

    Args:
      folder: `docs/results/<name>`.
      command: command line that produced the rows, to be run in the project's root folder.
      rows: rows as flat mappings.
      trained: commits, machines and dates of the runs behind the rows, if other processes trained them.
      machine: the machine, as another process described it; by default this process, which then uses its devices.

    Returns:
      The path of the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    results = {
        "command": command,
        **describe_here(machine),
        **({"trained": list(trained)} if trained else {}),
        "rows": list(rows),
    }
    path = folder / "results.json"
    write_text_whole(path, json.dumps(replace_nan_by_none(results), indent=1) + "\n")
    return path


def describe_here(machine: str = "") -> dict[str, str]:
    """Describes where results are produced: commit, machine (if not given) and date."""
    return {
        "commit": _read_commit(),
        "machine": machine or describe_machine(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def describe_machine() -> str:
    """Describes processors, device and JAX version in one line."""
    device = jax.devices()[0]
    return f"{platform.machine()}, {os.cpu_count()} CPUs, {device.platform} {device.device_kind}, JAX {jax.__version__}"


def _read_commit() -> str:
    """Returns the commit, with "+" if files other than results differ from it, or "unknown" outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        status = ["git", "status", "--porcelain", "--", ".", ":!docs/results"]
        dirty = subprocess.run(status, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")

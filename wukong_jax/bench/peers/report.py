"""Compares cases, prints them as a table, and names the versions compared."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

from wukong_jax.errors import UserError
from wukong_jax.reports.kept_results import describe_here

# Titles by key. `ratio`: the faster PyTorch step's median over ours. `excess`: ratio of times over ratio of FLOPs.
# `spread`: largest median over minimum; if it is well above 1, other work disturbed the steps.
TITLES = {
    "case": "case",
    "batch": "batch",
    "ours_ms": "ours ms",
    "eager_ms": "eager ms",
    "compiled_ms": "compiled ms",
    "base_ms": "base ms",
    "ratio": "ratio",
    "time_ratio": "time ratio",
    "flops_ratio": "FLOPs ratio",
    "excess": "excess",
    "our_gflop_per_second": "GFLOP/s",
    "gemm_share": "of GEMM",
    "loss_gap": "loss gap",
    "spread": "spread",
}
PACKAGES = ("torch", "fbgemm-gpu-cpu")


def compare_cases(cases: Sequence[str], table_rows: int, repeats: int) -> dict[str, Any]:
    """Compares cases one after the other and prints each as a line of a table.

    Args:
      cases: names of cases.
      table_rows: rows of all tables of a case.
      repeats: timed steps of each program.

    Returns:
      The machine, the versions and the `rows` of the results.

    Raises:
      UserError: PyTorch or FBGEMM is not installed.
    """
    try:
        from wukong_jax.bench.peers.comparison import compare
    except ImportError as error:
        raise UserError(f"--peer: {error}; run pip install 'wukong-jax[peers]'") from None
    rows: list[dict[str, Any]] = []
    for name in cases:
        rows.append(compare(name, table_rows, repeats))
        print(format_row(rows[-1], with_title=len(rows) == 1 or rows[-1].keys() != rows[-2].keys()), flush=True)
    return {**describe_here(), **describe_versions(), "rows": rows}


def format_row(row: Mapping[str, Any], *, with_title: bool) -> str:
    """Formats a row of the results as a line of a table, with the line of titles above it if asked for."""
    shown = [name for name in TITLES if name in row]
    title = "  ".join(f"{TITLES[name]:>14}" for name in shown) + "\n"
    return (title if with_title else "") + "  ".join(f"{row[name]!s:>14}" for name in shown)


def describe_versions() -> dict[str, str]:
    """Returns the versions of the peer's packages."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}

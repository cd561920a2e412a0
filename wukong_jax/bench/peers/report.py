"""Prints the comparison as a table, and names the versions compared."""

import importlib.metadata
from collections.abc import Mapping
from typing import Any

COLUMNS = {
    "case": "case",
    "batch": "batch",
    "ours_ms": "ours ms",
    "eager_ms": "eager ms",
    "compiled_ms": "compiled ms",
    "ratio": "ratio",
    "our_gflop_per_second": "GFLOP/s",
    "gemm_share": "of GEMM",
    "loss_gap": "loss gap",
}
PACKAGES = ("torch", "fbgemm-gpu-cpu")


def format_title() -> str:
    """Returns the table's first line; `ratio` is the faster PyTorch step's median divided by ours."""
    return "  ".join(f"{title:>11}" for title in COLUMNS.values())


def format_row(row: Mapping[str, Any]) -> str:
    """Returns one line of the table."""
    return "  ".join(f"{row[name]!s:>11}" for name in COLUMNS)


def describe_versions() -> dict[str, str]:
    """Returns the versions of the peer's packages."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}

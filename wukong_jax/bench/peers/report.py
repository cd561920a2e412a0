"""Prints the comparison as a table, and names the versions compared."""

import importlib.metadata
from collections.abc import Mapping
from typing import Any

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


def format_row(row: Mapping[str, Any], *, with_title: bool) -> str:
    """Formats a row of the results as a line of a table, with the line of titles above it if asked for."""
    shown = [name for name in TITLES if name in row]
    title = "  ".join(f"{TITLES[name]:>14}" for name in shown) + "\n"
    return (title if with_title else "") + "  ".join(f"{row[name]!s:>14}" for name in shown)


def describe_versions() -> dict[str, str]:
    """Returns the versions of the peer's packages."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}

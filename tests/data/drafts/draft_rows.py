"""Drafts schemas of small tables for tests."""

from pathlib import Path
from typing import Any

import polars as pl

from wukong_jax.data.drafts.decisions import Decision
from wukong_jax.data.drafts.draft import Draft, draft_schema
from wukong_jax.data.drafts.labels import LabelHints
from wukong_jax.data.drafts.limits import Limits
from wukong_jax.data.drafts.roles import Roles
from wukong_jax.data.drafts.scan import LayoutHints, scan_files


def draft_frame(frame: pl.DataFrame, path: Path, label: str = "label", **roles: Any) -> Draft:
    """Writes a frame as CSV or Parquet, by the path's suffix, and drafts its schema."""
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    else:
        frame.write_csv(path)
    return draft_file(path, label, **roles)


def draft_file(
    path: Path,
    label: str = "label",
    *,
    limits: Limits | None = None,
    hints: LayoutHints | None = None,
    chunk_bytes: int = 1 << 20,
    **roles: Any,
) -> Draft:
    """Drafts the schema of a file."""
    limits = limits or Limits()
    scan = scan_files([path], hints or LayoutHints((label,)), limits, chunk_bytes=chunk_bytes)
    return draft_schema("rows", scan, Roles(**({"labels": {label: LabelHints()}} | roles)), limits)


def decide(values: list[Any], path: Path, name: str = "x", **options: Any) -> Decision:
    """Drafts a CSV file of one feature, and returns what it becomes; a second feature is always there."""
    frame = pl.DataFrame({name: [None if value is None else str(value) for value in values]})
    labels = pl.Series("label", [(row * 7 // 3) % 2 for row in range(frame.height)])
    other = pl.Series("other", [f"o{row % 3}" for row in range(frame.height)])
    draft = draft_frame(frame.with_columns(labels, other), path / "rows.csv", **options)
    return next(decision for decision in draft.decisions if decision.name == name)

"""Compares id maps with plain hashing on a log: log loss by period, and rows of tables."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wukong_jax.config import RunConfig
from wukong_jax.data.raw.builtin_schemas import find_schema
from wukong_jax.errors import UserError
from wukong_jax.online.settings import OnlineSettings, Period
from wukong_jax.online.train_online import train_online
from wukong_jax.reports.period_pictures import list_periods
from wukong_jax.runs.record import load_run_record
from wukong_jax.schema import CategoricalColumn, Schema, schema_to_json

KINDS = ("least_recent", "least_frequent", "hash")
LATE = 0.5  # share of the scored periods, at the end, over which the late log loss is


@dataclasses.dataclass(frozen=True)
class Variant:
    """A way to give ids rows."""

    kind: str
    rows: int  # of each limited table
    name: str

    @classmethod
    def parse(cls, text: str) -> "Variant":
        """Parses "kind:rows", as in hash:1000.

        Raises:
          UserError: it is something else.
        """
        kind, _, rows = text.partition(":")
        if kind not in KINDS or not rows.isdigit() or int(rows) < 2:
            raise UserError(f"--variants = {text!r}: give kind:rows with a kind of {', '.join(KINDS)}, as hash:1000")
        return cls(kind, int(rows), f"{kind.replace('_', ' ')}, {int(rows):,} rows")


def vary_schema(schema: Schema, columns: Sequence[str], variant: Variant) -> Schema:
    """Returns the schema with some columns hashed, if the variant says so.

    Raises:
      UserError: a column has no vocabulary.
    """
    known = [column.name for column in schema.categorical if column.encoding == "vocabulary"]
    for name in columns:
        if name not in known:
            raise UserError(f"--columns = {name!r}: no categorical column with a vocabulary; known: {', '.join(known)}")

    def vary(column: CategoricalColumn) -> CategoricalColumn:
        if variant.kind != "hash" or column.name not in columns:
            return column
        return dataclasses.replace(column, encoding="hash", rows=variant.rows, min_count=1)

    return dataclasses.replace(schema, categorical=tuple(map(vary, schema.categorical)))


def train_variant(
    config: RunConfig,
    variant: Variant,
    columns: Sequence[str],
    other_rows: int,
    period: Period,
    workdir: Path,
    say: Callable[[str], None],
) -> tuple[dict[str, Any], list[Mapping[str, Any]]]:
    """Trains one variant, or goes on with it.

    Args:
      config: config of the runs; its schema is varied.
      variant: the variant.
      columns: columns whose tables are limited.
      other_rows: rows of the tables of other columns with a vocabulary.
      period: kind of periods.
      workdir: folder of the run.
      say: prints a message.

    Returns:
      A row of the results, and the lines of its periods.
    """
    schema = vary_schema(find_schema(config.data.schema), columns, variant)
    path = workdir.with_name(f"{workdir.name}.schema.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(schema_to_json(schema), encoding="utf-8")
    mapped = variant.kind != "hash"
    settings = OnlineSettings(
        period=period,
        rows=other_rows,
        table_rows=dict.fromkeys(columns, variant.rows) if mapped else {},
        evict=variant.kind if mapped else "least_recent",  # type: ignore[arg-type]
    )
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, schema=str(path)))
    summary = train_online(config, settings, workdir, say)
    lines = list_periods(load_run_record(workdir))
    scored = [line for line in lines if line.get("log_loss") is not None]
    late = scored[-max(1, round(LATE * len(scored))) :]
    rows = sum(line["rows"] for line in late)
    row = {
        "variant": variant.name,
        "kind": variant.kind,
        "rows_of_each_limited_table": variant.rows,
        "rows_with_a_value_at_the_end": sum(summary["table_rows"].get(name, 0) for name in columns) if mapped else None,
        "periods_scored": len(scored),
        "rows_scored": summary["progressive"]["rows"],
        "log_loss": summary["progressive"]["log_loss"],
        "late_log_loss": sum(line["rows"] * line["log_loss"] for line in late) / rows,
        "auc": summary["progressive"]["auc"],
        "calibration": summary["progressive"]["calibration"],
        "embedding_parameters": summary["embedding_parameters"],
        "wall_seconds": round(summary["wall_seconds"], 1),
    }
    return row, lines


def summarise_variants(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Summarises rows of several seeds: means and sample standard deviations by variant, in the order of the rows."""
    summaries = []
    for name in dict.fromkeys(row["variant"] for row in rows):
        own = [row for row in rows if row["variant"] == name]
        summary: dict[str, Any] = {**own[0], "seeds": [row["seed"] for row in own]}
        summary.pop("seed")
        for key in ("log_loss", "late_log_loss", "auc", "calibration", "wall_seconds"):
            values = [row[key] for row in own]
            summary[key] = statistics.fmean(values)
            summary[f"{key}_std"] = statistics.stdev(values) if len(values) > 1 else None
        summaries.append(summary)
    return summaries


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats rows of `summarise_variants` as a Markdown table."""
    lines = [
        "| ids | log loss | late log loss | AUC | calibration | embedding parameters |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [_format(row, key) for key in ("log_loss", "late_log_loss", "auc", "calibration")]
        lines.append(f"| {row['variant']} | {' | '.join(cells)} | {row['embedding_parameters']:,} |")
    return "\n".join(lines)


def _format(row: Mapping[str, Any], key: str) -> str:
    deviation = row[f"{key}_std"]
    return f"{row[key]:.4f}" + (f" +- {deviation:.4f}" if deviation is not None else "")

"""Formats points, fitted parameters, intervals and other values of a scaling report as text."""

import json
import math
from collections.abc import Mapping
from typing import Any

from wukong_jax.runs.record import read_number
from wukong_jax.scaling.report.analysis import Row, read_losses

DASH = "\N{EN DASH}"  # no value
FACTORS_SHOWN = 10_000  # largest compute factor to print; larger ones depend on extrapolation only
MINUS = "\N{MINUS SIGN}"


def describe_point(row: Row) -> str:
    """Describes a point in full, in several lines of text."""
    losses = [f"{loss:.5f}" for loss in read_losses(row, "log_loss")]
    lines = [
        f"{row['model']}, {row['size']}",
        f"log loss {format_spread(row, 'log_loss')} on {row['split']} rows",
        f"above Bayes {format_spread(row, 'excess_log_loss')}" if row["excess_log_loss"] is not None else "",
        f"AUC {format_spread(row, 'auc')}",
        f"seeds {', '.join(map(str, row['seeds']))}: {', '.join(losses)}" if losses else "no seed with a finite loss",
        describe_state(row),
        f"{format_flops(row['train_flops_per_example'])} per example in training",
        f"{format_count(row['parameters'])} dense, {format_count(row['embedding_parameters'])} embedding parameters",
        f"{format_count(row['examples_seen'])} examples seen",
        f"learning rate {format_number(row['learning_rate'])}, of embeddings "
        f"{format_number(row['embedding_learning_rate'])}",
        f"initial embedding scale {format_number(row['initial_scale'])}, norm {describe_structure(row)}",
        format_options(row["options"]),
    ]
    return "\n".join(line for line in lines if line)


def describe_structure(row: Row) -> str:
    """Describes the searched structure: the norm, then other choices and weight decay; old rows have none."""
    others = [f"{choice} {name}" for choice, name in (row.get("structure") or {}).items()]
    decay = [f"weight decay {row['weight_decay']:g}"] if row.get("weight_decay") else []
    return ", ".join([str(row["norm"]), *others, *decay])


def describe_state(row: Row) -> str:
    """Describes exploded, failed and missing seeds of a row; empty if there are none."""
    parts = []
    if row["exploded"]:
        parts.append(f"{row['exploded']} of {row['exploded'] + len(row['seeds']) + len(row['errors'])} seeds exploded")
    parts += [f"failed: {error}" for error in row["errors"]]
    if row.get("missing_seeds"):
        parts.append(f"{row['missing_seeds']} still to run")
    return "; ".join(parts)


def format_times(factor: float) -> str:
    """Formats a factor: `3.2×`."""
    if not math.isfinite(factor):
        return "\N{INFINITY}"
    if factor >= FACTORS_SHOWN:
        return f"over {FACTORS_SHOWN:,}\N{MULTIPLICATION SIGN}"
    return f"{factor:,.0f}\N{MULTIPLICATION SIGN}" if factor >= 100 else f"{factor:.2g}\N{MULTIPLICATION SIGN}"


def format_spread(row: Row, key: str) -> str:
    """Formats a metric and its standard deviation over seeds: `0.41230 ± 0.00012`."""
    value, std = read_number(row[key]), read_number(row[f"{key}_std"])
    if value is None:
        return DASH
    return f"{value:.5f}" + (f" \N{PLUS-MINUS SIGN} {std:.5f}" if std is not None else "")


def format_interval(row: Row, key: str) -> str:
    """Formats a fitted parameter and its interval: `0.41 [0.38, 0.44]`."""
    value, low = read_number(row.get(key)), read_number(row.get(f"{key}_low"))
    if value is None:
        return DASH
    return f"{value:.4g}" + (f" [{low:.4g}, {row[f'{key}_high']:.4g}]" if low is not None else "")


def format_number(value: Any) -> str:
    """Formats a number of any size."""
    number = read_number(value)
    return DASH if number is None else f"{number:.4g}".replace("-", MINUS)


def format_share(value: Any, signed: bool = False) -> str:
    """Formats a share in percent."""
    number = read_number(value)
    if number is None:
        return DASH
    return f"{100 * number:+.1f} %".replace("-", MINUS) if signed else f"{100 * number:.1f} %"


def format_count(value: Any) -> str:
    """Formats a whole number."""
    number = read_number(value)
    return DASH if number is None else f"{number:,.0f}"


def format_flops(value: Any) -> str:
    """Formats FLOPs in a suitable unit."""
    number = read_number(value)
    if number is None:
        return "unknown FLOPs"
    for unit, size in (("GFLOP", 1e9), ("MFLOP", 1e6), ("kFLOP", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f} FLOP"


def format_options(options: Mapping[str, Any]) -> str:
    """Formats a model's options: `layers = 2, mlp = [256, 256]`."""
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in options.items()}
    return ", ".join(f"{key} = {text}" for key, text in texts.items())


def format_any(value: Any) -> str:
    """Formats any value of a table cell."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int):
        return f"{value:,}"
    return value if isinstance(value, str) else json.dumps(value)

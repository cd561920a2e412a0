"""Times the train step of a Lattice network on sequences with a long tail of lengths: padded, and by their lengths."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from wukong_jax.bench.bag_lengths import TimedForm, draw_tail
from wukong_jax.bench.growth import Row
from wukong_jax.bench.train_step import COLUMNS, DENSE
from wukong_jax.config import build_run_config
from wukong_jax.data.blocks.batch import Batch
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source
from wukong_jax.training.run import Run, build_run

BATCH, WIDTH, TABLE_ROWS = 1024, 32, 10_000
FACTORY = "lattice.network:build"
CASES = ((1, 50), (1, 200))  # (sequences, longest)
OPTIONS = {
    "layers": 2,
    "fusion": {"fmb_tokens": 16, "lcb_tokens": 16, "rank": 16, "hidden": (256,)},
    "head_hidden": 64,
}


def measure_sequence_lengths(
    rounds: int, say: Callable[[str], None], cases: Sequence[tuple[int, int]] = CASES, batch: int = BATCH
) -> list[Row]:
    """Times both forms of each case in turns.

    Args:
      rounds: timed steps of each form.
      say: prints a line.
      cases: number of sequences and the longest of each.
      batch: B.

    Returns:
      A row per case.
    """
    rows = []
    for count, longest in cases:
        padded, by_length = (build_sequence_run(count, longest, form, batch) for form in ("padded", "by_length"))
        rows.append(compare_sequence_forms(padded, by_length, draw_tail(padded, batch), rounds))
        say(format_sequences(rows[-1]))
    return rows


def build_sequence_run(count: int, longest: int, form: str, batch: int) -> Run:
    """Builds a run of a Lattice network on 26 columns of one id, and sequences that are not pooled."""
    names = [f"history_{i}" for i in range(count)]
    of_events: dict[str, Any] = {"rows": TABLE_ROWS, "separator": "|", "max_length": longest}
    schema = Schema(
        "bench",
        Source("parquet"),
        labels=(LabelColumn("click"),),
        dense=tuple(DenseColumn(f"d{i}") for i in range(DENSE)),
        categorical=tuple(CategoricalColumn(f"c{i}", "identity", rows=TABLE_ROWS) for i in range(COLUMNS)),
        sequences=tuple(CategoricalColumn(name, "identity", **of_events) for name in names),
    )
    config = {
        "name": "bench",
        "data": {"factory": "blocks", "path": "none"},
        "embeddings": {
            "width": WIDTH,
            "optimizer": {"kind": "rowwise_adagrad", "learning_rate": 0.01},
            "fields": {name: {"pooling": "none"} for name in names},
            "sequences": form,
        },
        "model": {"factory": FACTORY, "options": OPTIONS | {"sequences": tuple(names)}},
        "training": {"batch_size": batch, "evaluation_batch_size": batch, "steps": 1},
        "mesh": {"hosts": 1, "chips": 1},
    }
    return build_run(build_run_config(config), schema)


def compare_sequence_forms(padded: Run, by_length: Run, batch: Batch, rounds: int) -> Row:
    """Times the step with padded sequences and by their lengths, in turns."""
    forms = [TimedForm(run, batch) for run in (padded, by_length)]
    for _ in range(1 + rounds):
        for form in forms:
            form.take_step()
    before, now = (float(np.median(form.seconds[1:])) for form in forms)
    fields = [field for field in padded.layout.fields if field.length > 1]
    used = sum(int((batch.ids[:, slice(*field.slots)] >= 0).sum()) for field in fields)
    fill, places = (float(forms[1].metrics[name]) for name in ("sequence_fill", "sequence_places"))
    return {
        "sweep": "sequences",
        "columns": len(fields),
        "longest": fields[0].length,
        "mean_length": round(used / len(fields) / len(batch.ids), 2),
        "fill_padded": round(used / (len(batch.ids) * sum(field.length for field in fields)), 4),
        "places": round(places, 4),
        "fill": round(fill, 4),
        "padded_ms": round(before * 1e3, 1),
        "by_length_ms": round(now * 1e3, 1),
        "ratio": round(before / now, 3),
        "padded_temporary_bytes": forms[0].temporary_bytes,
        "by_length_temporary_bytes": forms[1].temporary_bytes,
        "padded_compile_seconds": round(forms[0].compile_seconds, 1),
        "by_length_compile_seconds": round(forms[1].compile_seconds, 1),
        "timed_steps": rounds,
    }


def format_sequences(row: Row) -> str:
    """Formats a row as a line of text."""
    return (
        f"{row['columns']:>3} sequences of up to {row['longest']:>3} events, {row['mean_length']:5.1f} on average: "
        f"padded {row['padded_ms']:8.1f} ms ({row['fill_padded']:.0%} full), by length {row['by_length_ms']:8.1f} ms "
        f"({row['fill']:.0%} full), {row['ratio']:.2f} times as fast"
    )

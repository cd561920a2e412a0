"""Times the shuffled reading of row blocks, and the preparing of Criteo TSV files, without a model.

Rows in the shape of Criteo (13 dense, 26 categorical columns) are generated in a temporary folder, so files are in the
page cache and CPU work is timed. Preparing is timed in turns with polars only parsing the same file, so that other load
of the machine affects both equally.
"""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from wukong_jax.data.blocks.batch import COLUMN_DTYPES, Columns
from wukong_jax.data.blocks.loader import Position, iterate_batches
from wukong_jax.data.blocks.row_blocks import BlockWriter, open_row_blocks
from wukong_jax.data.raw.builtin_schemas import find_schema
from wukong_jax.data.raw.prepare import prepare_data
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source, Split, schema_to_json

DENSE, CATEGORICAL = 13, 26
BATCH_SIZES = (4096, 8192, 16384)

Row = dict[str, str | int | float]


def bench_reading(folder: Path, rows: int, repeats: int, threads: int) -> list[Row]:
    """Times writing blocks, with and without compression, and reading them in shuffled batches."""
    schema = criteo_shaped_schema()
    chunk = draw_columns(schema, min(rows, 1 << 17))
    results: list[Row] = []
    for compression in ("zstd", "none"):
        directory = folder / compression
        directory.mkdir()
        (directory / "schema.json").write_text(schema_to_json(schema), encoding="utf-8")
        seconds = time_calls([functools.partial(write_rows, directory, schema, chunk, rows, compression)], repeats)[0]
        size = sum(path.stat().st_size for path in (directory / "blocks").iterdir())
        results.append(
            {
                "case": f"write blocks, {compression}",
                "rows_per_second": round(rows / seconds),
                "bytes_per_row": round(size / rows, 1),
            }
        )
        calls = [functools.partial(read_rows, directory, batch, threads) for batch in BATCH_SIZES]
        for batch, seconds in zip(BATCH_SIZES, time_calls(calls, repeats), strict=True):
            case = f"shuffled batches of {batch}, {compression}, {threads} threads"
            results.append({"case": case, "rows_per_second": round(rows / seconds)})
    return results


def bench_preparing(folder: Path, rows: int, repeats: int) -> list[Row]:
    """Times preparing a Criteo TSV file, in turns with polars only parsing it."""
    file = folder / "criteo.tsv"
    write_criteo_tsv(file, rows)
    vocabularies = dataclasses.replace(find_schema("criteo"), split=Split(by="random"))
    hashed_columns = tuple(CategoricalColumn(c.name, "hash", rows=1_000_000) for c in vocabularies.categorical)
    hashed = dataclasses.replace(vocabularies, categorical=hashed_columns)
    outputs = iter(folder / f"prepared_{i}" for i in range(2 * repeats + 2))
    types = [pl.Int32] * (1 + DENSE) + [pl.String] * CATEGORICAL
    layout = {f"column_{i + 1}": kind for i, kind in enumerate(types)}

    def parse() -> None:
        pl.read_csv(file, separator="\t", has_header=False, schema=layout)

    def prepare(schema: Schema) -> None:
        prepare_data(schema, [file], next(outputs))

    calls: list[Callable[[], None]] = [
        parse,
        functools.partial(prepare, vocabularies),
        functools.partial(prepare, hashed),
    ]
    alone, *prepared = time_calls(calls, repeats)
    results: list[Row] = [{"case": "polars parses the TSV", "rows_per_second": round(rows / alone)}]
    for case, seconds in zip(("vocabularies", "hashed"), prepared, strict=True):
        speed, share = round(rows / seconds), round(alone / seconds, 3)
        results.append({"case": f"prepare_data on it, {case}", "rows_per_second": speed, "of_polars": share})
    return results


def time_calls(calls: Sequence[Callable[[], None]], repeats: int) -> list[float]:
    """Returns the median seconds of each call, timed in turns after one untimed round."""
    seconds: list[list[float]] = [[] for _ in calls]
    for repeat in range(repeats + 1):
        for call, times in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            call()
            if repeat:
                times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in seconds]


def criteo_shaped_schema() -> Schema:
    """Returns a schema with 13 dense columns and 26 categorical columns of up to 100 k values."""
    return Schema(
        name="criteo_shaped",
        source=Source("csv"),
        labels=(LabelColumn("click"),),
        dense=tuple(DenseColumn(f"I{i + 1}") for i in range(DENSE)),
        categorical=tuple(CategoricalColumn(f"C{i + 1}", "identity", rows=100_001) for i in range(CATEGORICAL)),
    )


def draw_columns(schema: Schema, rows: int) -> Columns:
    """Draws log-normal counts and Zipf-distributed ids."""
    rng = np.random.default_rng(0)
    columns = {name: np.zeros((rows, *shape), COLUMN_DTYPES[name]) for name, shape in schema.column_shapes().items()}
    columns["dense"][:] = np.log1p(np.floor(rng.lognormal(2, 1.5, (rows, DENSE))))
    columns["ids"][:] = np.minimum(rng.zipf(1.3, (rows, CATEGORICAL)), 100_000)
    columns["labels"][:] = rng.random((rows, 1)) < 0.25
    columns["label_mask"][:] = 1
    columns["weight"][:] = 1
    return columns


def write_rows(directory: Path, schema: Schema, chunk: Columns, rows: int, compression: str) -> None:
    """Writes a training split by repeating the chunk."""
    with BlockWriter(directory, "train", schema, compression=compression) as writer:  # type: ignore[arg-type]
        for start in range(0, rows, len(chunk["weight"])):
            writer.append({name: array[: rows - start] for name, array in chunk.items()})


def read_rows(directory: Path, batch_size: int, threads: int) -> None:
    """Reads one shuffled epoch."""
    blocks = open_row_blocks(directory, "train")
    start = Position(epoch=0, seed=0, rows_consumed=0)
    for _ in iterate_batches(
        blocks, blocks.schema, batch_size, position=start, shuffle=True, epochs=1, threads=threads
    ):
        pass


def write_criteo_tsv(file: Path, rows: int) -> None:
    """Writes a file in Criteo's format: label, 13 counts and 26 values of 8 hexadecimal digits, with missing values."""
    rng = np.random.default_rng(0)
    columns: dict[str, pl.Series] = {"label": pl.Series((rng.random(rows) < 0.25).astype(np.int32))}
    for i in range(DENSE):
        counts = pl.Series(np.floor(rng.lognormal(2, 1.5, rows)).astype(np.int32))
        columns[f"I{i + 1}"] = counts.set(pl.Series(rng.random(rows) < 0.1), None)
    for i in range(CATEGORICAL):
        names = pl.Series([f"{value:08x}" for value in rng.integers(0, 2**32, 20_000)])
        values = names.gather(np.minimum(rng.zipf(1.3, rows), 20_000) - 1)
        columns[f"C{i + 1}"] = values.set(pl.Series(rng.random(rows) < 0.05), None)
    pl.DataFrame(columns).write_csv(file, separator="\t", include_header=False)

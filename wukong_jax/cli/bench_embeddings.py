"""Time gather and sparse update for tables of several sizes.

    wukong-jax bench_embeddings [--output=FILE.json] [--rows=100000,10000000]

By default, a batch has 213 k Zipf-distributed ids (8192 rows, 26 columns). All sizes of a case are timed in turns. The
memory of the compiled step is reported, too.
"""

import dataclasses
import json
import typing
from pathlib import Path
from typing import Annotated, Literal

from wukong_jax.ranges import AtLeast

Case = Literal[
    "rowwise_adagrad/float32",
    "sgd/float32",
    "adagrad/float32",
    "lazy_adam/float32",
    "rowwise_adagrad/bfloat16",
    "sgd/bfloat16",
    "adagrad/bfloat16",
    "lazy_adam/bfloat16",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The command's flags."""

    rows: Annotated[tuple[int, ...], "sizes to time, as total rows of all tables", AtLeast(1)] = (100_000, 10_000_000)
    batch: Annotated[int, "rows of a batch (B)", AtLeast(1)] = 8192
    columns: Annotated[int, "categorical columns, one table each", AtLeast(1)] = 26
    width: Annotated[int, "embedding width (D)", AtLeast(1)] = 16
    zipf: Annotated[float, "exponent of the ids' Zipf distribution"] = 1.2
    repeats: Annotated[int, "timed steps per case", AtLeast(1)] = 15
    case: Annotated[tuple[Case, ...], "cases to time, as OPTIMIZER/DTYPE"] = typing.get_args(Case)[:5]
    output: Annotated[str, "JSON file to write"] = ""


def run(settings: Settings) -> None:
    """Times the cases, prints and writes the results."""
    from wukong_jax.bench.embeddings import TableBench, measure_case, measure_merges
    from wukong_jax.bench.machine import describe_machine

    sizes = {field.name: getattr(settings, field.name) for field in dataclasses.fields(TableBench)}
    bench = TableBench(**sizes)
    rows = [row for case in settings.case for row in measure_case(bench, case)] + measure_merges(bench)
    print(f"{'case':28}{'rows':>12}{'median ms':>11}{'min ms':>9}{'spread':>8}{'temp MB':>9}{'aliased/tables MB':>20}")
    for row in rows:
        memory = ""
        if "table_bytes" in row:
            memory = f"{row['temporary_bytes'] / 1e6:9.2f}"
            memory += f"{row['aliased_bytes'] / 1e6:>11.1f}/{row['table_bytes'] / 1e6:.1f}"
        print(
            f"{row['case']:28}{row['rows']:>12,}{row['median_ms']:>11.2f}{row['minimum_ms']:>9.2f}"
            f"{row['spread_ms']:>8.2f}{memory}"
        )
    if settings.output:
        del sizes["rows"]
        report = {"machine": describe_machine(), "settings": sizes, "rows": rows}
        Path(settings.output).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

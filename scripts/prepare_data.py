"""Turns raw files into a folder of row blocks and vocabularies.

    python scripts/prepare_data.py --schema=criteo --input=train.txt.gz --output=data/criteo

Exit codes: 0 done, 1 failed (one line says why, and nothing is left behind), 2 bad usage.
"""

import argparse
import dataclasses
import sys
import time
from typing import Any

from wukong_jax.data.raw.builtin_schemas import BUILTIN_SCHEMAS, find_schema
from wukong_jax.data.raw.prepare import prepare_data
from wukong_jax.errors import UserError
from wukong_jax.schema import Schema, Split

# Options of each kind of split.
_SPLIT_OPTIONS = {
    "file": ("train", "validation", "test", "seed", "validation_share_of_test"),
    "random": ("validation_fraction", "test_fraction", "seed"),
    "time": ("validation_fraction", "test_fraction"),
    "order": ("validation_fraction", "test_fraction"),
}


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Turns raw files into row blocks, vocabularies, a resolved schema and a report.",
        epilog="Exit codes: 0 done, 1 failed, 2 bad usage.",
        allow_abbrev=False,
    )
    parser.add_argument("--schema", required=True, help=f"a schema file, or one of {', '.join(BUILTIN_SCHEMAS)}")
    parser.add_argument("--input", required=True, help="raw files, folders or glob patterns, separated by commas")
    parser.add_argument("--output", required=True, help="the folder to make")
    parser.add_argument(
        "--on_bad_row", choices=("stop", "skip"), default="stop", help="stop, or skip, count and report"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a data set that was prepared before")
    parser.add_argument("--min_count", type=int, help="of every vocabulary, in place of the schema's")
    parser.add_argument("--rows_per_block", type=int, default=8192, help="rows of a block (default 8192)")
    parser.add_argument("--chunk_mib", type=int, default=16, help="raw text in work at once, MiB (default 16)")
    split = parser.add_argument_group("split, in place of the schema's")
    split.add_argument("--split", choices=tuple(_SPLIT_OPTIONS))
    split.add_argument("--train", help="by file: pattern of the training files")
    split.add_argument("--validation", help="by file: pattern of the validation files")
    split.add_argument("--test", help="by file: pattern of the test files")
    split.add_argument("--validation_share_of_test", type=float, help="by file: share of test rows made validation")
    split.add_argument("--validation_fraction", type=float)
    split.add_argument("--test_fraction", type=float)
    split.add_argument("--seed", type=int)
    return parser


def override_schema(schema: Schema, arguments: argparse.Namespace) -> Schema:
    """The schema with the split and minimum count of the command line.

    Raises:
      UserError: an option that the split does not have, or a value out of range.
    """
    by = arguments.split or schema.split.by
    names = {name for options in _SPLIT_OPTIONS.values() for name in options}
    given = {name: getattr(arguments, name) for name in sorted(names) if getattr(arguments, name) is not None}
    for name in given:
        if name not in _SPLIT_OPTIONS[by]:
            raise UserError(f"--{name} = {given[name]!r}: a split by {by!r} has no such option")
    if arguments.split or given:
        kept = dataclasses.asdict(schema.split) if by == schema.split.by else {}
        schema = dataclasses.replace(schema, split=Split(**{**kept, "by": by, **given}))
    if arguments.min_count is None:
        return schema
    changes: dict[str, Any] = {}
    for kind in ("categorical", "sequences"):
        changes[kind] = tuple(
            dataclasses.replace(column, min_count=arguments.min_count)
            if column.encoding == "vocabulary" and column.vocabulary_of is None
            else column
            for column in getattr(schema, kind)
        )
    return dataclasses.replace(schema, **changes)


def print_report(report: dict[str, Any], output: str) -> None:
    """Prints rows and label rates of each split, and the sizes of the tables."""
    print(f"{'split':<12}{'rows':>14}" + "".join(f"{name:>16}" for name in report["label_rate"]))
    for split, rows in report["rows"].items():
        rates = [rates[split] for rates in report["label_rate"].values()]
        print(f"{split:<12}{rows:>14,}" + "".join(f"{'-' if rate is None else f'{rate:.4f}':>16}" for rate in rates))
    tables = report["vocabulary_rows"]
    print(f"{sum(tables.values()):,} rows in {len(tables)} tables; {report['skipped_rows']:,} bad rows skipped")
    for example in report["skipped_examples"][:3]:
        print(f"  skipped: {example}")
    peak = report["peak_memory_bytes"] / 2**30
    print(f"{report['seconds']:.1f} s, peak memory {peak:.2f} GiB; wrote {output}")


def main() -> int:
    """Prepares data; returns the exit code."""
    arguments = build_parser().parse_args()
    last = [time.monotonic()]

    def progress(line: str) -> None:
        if time.monotonic() - last[0] >= 5:
            last[0] = time.monotonic()
            print(line, file=sys.stderr, flush=True)

    try:
        for name in ("rows_per_block", "chunk_mib"):
            if getattr(arguments, name) < 1:
                raise UserError(f"--{name} = {getattr(arguments, name)}: at least 1")
        report = prepare_data(
            override_schema(find_schema(arguments.schema), arguments),
            arguments.input.split(","),
            arguments.output,
            on_bad_row=arguments.on_bad_row,
            overwrite=arguments.overwrite,
            chunk_bytes=arguments.chunk_mib << 20,
            rows_per_block=arguments.rows_per_block,
            progress=progress,
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print_report(report, arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Convert raw files to row blocks, vocabularies, a resolved schema and a report.

    wukong-jax prepare_data --schema=criteo --input=train.txt.gz --output=data/criteo

The flags from --split on replace the split of the schema. After a failure, no files are left.
"""

import dataclasses
import sys
from typing import Annotated, Any, Literal

from wukong_jax.cli.flags import MayBeStore
from wukong_jax.cli.progress import Progress
from wukong_jax.data.raw.builtin_schemas import BUILTIN_SCHEMAS
from wukong_jax.ranges import AtLeast


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The command's flags."""

    schema: Annotated[str, f"schema file, or one of {', '.join(BUILTIN_SCHEMAS)}"]
    input: Annotated[tuple[str, ...], "raw files, folders or glob patterns"]
    output: Annotated[str, "folder to create, or its URL on an object store", MayBeStore()]
    on_bad_row: Annotated[
        Literal["stop", "skip"], "on a row that cannot be read, stop, or skip it and report the number"
    ] = "stop"
    overwrite: Annotated[bool, "replace a data set that was prepared before"] = False
    min_count: Annotated[int | None, "min_count of all vocabularies, instead of the schema's", AtLeast(1)] = None
    rows_per_block: Annotated[int, "rows of a block", AtLeast(1)] = 8192
    chunk_mib: Annotated[int, "raw text processed at once, MiB", AtLeast(1)] = 16
    split: Annotated[Literal["file", "random", "time", "order"] | None, "how rows are split"] = None
    train: Annotated[str | None, "split by file: pattern of the training files"] = None
    validation: Annotated[str | None, "split by file: pattern of the validation files"] = None
    test: Annotated[str | None, "split by file: pattern of the test files"] = None
    validation_share_of_test: Annotated[
        float | None, "split by file: share of the test files' rows to use for validation"
    ] = None
    validation_fraction: Annotated[float | None, "split by random, time or order: share of validation rows"] = None
    test_fraction: Annotated[float | None, "split by random, time or order: share of test rows"] = None
    seed: Annotated[int | None, "split by file or random: seed of the split"] = None

    @property
    def split_options(self) -> dict[str, Any]:
        """The given options of the split."""
        files = ("train", "validation", "test", "validation_share_of_test")
        names = (*files, "validation_fraction", "test_fraction", "seed")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def run(settings: Settings) -> None:
    """Prepares the data and prints the report."""
    from wukong_jax.data.blocks.preparation_report import format_report
    from wukong_jax.data.raw.builtin_schemas import find_schema
    from wukong_jax.data.raw.prepare import prepare_data
    from wukong_jax.data.raw.prepare_to_store import prepare_to_store
    from wukong_jax.data.raw.schema_changes import change_min_count, change_split
    from wukong_jax.files.object_store import is_store_url

    schema = change_split(find_schema(settings.schema), settings.split, settings.split_options)
    if settings.min_count is not None:
        schema = change_min_count(schema, settings.min_count)
    prepare = prepare_to_store if is_store_url(settings.output) else prepare_data
    report = prepare(
        schema,
        settings.input,
        settings.output,
        on_bad_row=settings.on_bad_row,
        overwrite=settings.overwrite,
        chunk_bytes=settings.chunk_mib << 20,
        rows_per_block=settings.rows_per_block,
        progress=Progress(),
    )
    for line in report["warnings"]:
        print(f"warning: {line}", file=sys.stderr, flush=True)
    print(f"{format_report(report)}; wrote {settings.output}")

"""Convert raw files to row blocks, vocabularies, a resolved schema and a report.

    wukong-jax prepare_data --schema=criteo --input=train.txt.gz --output=data/criteo

Several processes with a common disk prepare together with the flags of train: each reads its share of the files, and
the result is that of one. The flags from --split on replace the split of the schema. After a failure, no files are
left.
"""

import dataclasses
import sys
from typing import Annotated, Any, Literal

from wukong_jax.cli.flags import MayBeStore
from wukong_jax.cli.progress import Progress
from wukong_jax.cli.settings import TeamFlags
from wukong_jax.data.raw.builtin_schemas import BUILTIN_SCHEMAS
from wukong_jax.ranges import AtLeast

_STALL_SECONDS = 600.0  # without a sign of a process: a large vocabulary may take minutes to merge


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(TeamFlags):
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
    from wukong_jax.cli.joining import join_team
    from wukong_jax.data.blocks.preparation_report import format_report
    from wukong_jax.data.raw.builtin_schemas import find_schema
    from wukong_jax.data.raw.prepare import prepare_data
    from wukong_jax.data.raw.prepare_to_store import prepare_to_store
    from wukong_jax.data.raw.prepare_together import prepare_together
    from wukong_jax.data.raw.schema_changes import change_min_count, change_split
    from wukong_jax.files.object_store import is_store_url, refuse_store
    from wukong_jax.sharding.team import find_team

    schema = change_split(find_schema(settings.schema), settings.split, settings.split_options)
    if settings.min_count is not None:
        schema = change_min_count(schema, settings.min_count)
    join_team(settings, _STALL_SECONDS)
    together = find_team().count > 1
    if together:
        refuse_store("--output", settings.output, "several processes need a disk that all see; or prepare in one")
    prepare = prepare_to_store if is_store_url(settings.output) else prepare_together if together else prepare_data
    report = prepare(
        schema,
        settings.input,
        settings.output,
        on_bad_row=settings.on_bad_row,
        overwrite=settings.overwrite,
        chunk_bytes=settings.chunk_mib << 20,
        rows_per_block=settings.rows_per_block,
        progress=Progress() if find_team().is_lead else lambda line: None,
    )
    if not find_team().is_lead:
        return
    for line in report["warnings"]:
        print(f"warning: {line}", file=sys.stderr, flush=True)
    print(f"{format_report(report)}; wrote {settings.output}")

"""Read raw files once, and draft a schema for them: what each column is, and why.

    wukong-jax infer_schema clicks.csv --label=click --output=clicks.json

FILE is CSV, TSV or similar text (plain or .gz) or Parquet; several files, folders and patterns must have the same
columns. Prints a table with a line per column, says what it is unsure of and how to change it, and the command that
trains on the rows. Read the table before you trust the draft: no file tells which columns are known only after the
label. Columns are changed by the flags below, or in the written JSON file.
"""

import dataclasses
import shlex
from pathlib import Path
from typing import Annotated

from wukong_jax.cli.flags import Positional
from wukong_jax.cli.progress import Progress
from wukong_jax.errors import UserError
from wukong_jax.ranges import AtLeast

_SMALL, _LARGE = 50_000, 5_000_000  # rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The command's flags."""

    file: Annotated[tuple[str, ...], "raw files, folders or glob patterns", Positional()]
    label: Annotated[tuple[str, ...], "columns to predict"]
    output: Annotated[str, "schema file to write"] = "schema.json"
    overwrite: Annotated[bool, "replace the schema file"] = False
    positive: Annotated[tuple[str, ...], "LABEL=TEXT: the text that means 1 (repeat for several)"] = ()
    threshold: Annotated[tuple[str, ...], "LABEL=NUMBER: the label is 1 from this number on"] = ()
    timestamp: Annotated[tuple[str, ...], "column of the time, or columns of year, month and day"] = ()
    group: Annotated[str, "column that groups rows for GAUC, such as the user"] = ""
    domain: Annotated[str, "column whose value is the row's domain, such as a country"] = ""
    weight: Annotated[str, "column of row weights"] = ""
    drop: Annotated[tuple[str, ...], "columns to leave out, such as those known only after the label"] = ()
    keep: Annotated[tuple[str, ...], "columns to use although the draft would leave them out"] = ()
    columns: Annotated[tuple[str, ...], "names of the columns of a file without header, in file order"] = ()
    separator: Annotated[str | None, "separator between columns (default: found)"] = None
    header: Annotated[bool | None, "whether the first line names the columns (default: found)"] = None
    chunk_mib: Annotated[int, "raw text processed at once, MiB", AtLeast(1)] = 16


def run(settings: Settings) -> None:
    """Drafts the schema, prints the table and writes the file."""
    from wukong_jax.data.drafts.draft import draft_schema
    from wukong_jax.data.drafts.draft_table import format_draft
    from wukong_jax.data.drafts.limits import Limits
    from wukong_jax.data.drafts.roles import Roles, parse_label_hints
    from wukong_jax.data.drafts.scan import LayoutHints, scan_files
    from wukong_jax.data.drafts.schema_text import format_schema
    from wukong_jax.files.whole_files import write_text_whole

    output = Path(settings.output)
    if output.exists() and not settings.overwrite:
        raise UserError(f"output {output}: exists; choose another file or pass --overwrite")
    if not output.parent.is_dir():
        raise UserError(f"output {output}: no folder {output.parent}; create it or choose another file")
    roles = Roles(
        parse_label_hints(settings.label, settings.positive, settings.threshold),
        timestamp=settings.timestamp,
        group=settings.group,
        domain=settings.domain,
        weight=settings.weight,
        drop=settings.drop,
        keep=settings.keep,
    )
    hints = LayoutHints(settings.label, settings.columns, _unescape(settings.separator), settings.header)
    scan = scan_files(settings.file, hints, Limits(), chunk_bytes=settings.chunk_mib << 20, progress=Progress())
    draft = draft_schema(name_schema(settings.file[0]), scan, roles, Limits())
    write_text_whole(output, format_schema(draft.schema))
    print(format_draft(draft))
    print(f"\nwrote {output}: read it, edit it, then")
    for command in next_commands(settings, scan.rows, scan.bad_rows):
        print(f"  {command}")


def name_schema(file: str) -> str:
    """Names a schema after its first file: data/clicks.csv.gz is clicks."""
    return Path(file).name.partition(".")[0].strip("*?[]") or "rows"


def next_commands(settings: Settings, rows: int, bad_rows: int) -> list[str]:
    """Returns the commands that train on the rows; several inputs, and those with bad rows, are prepared first."""
    variant = ":small" if rows < _SMALL else ":large" if rows > _LARGE else ""
    name = name_schema(settings.file[0])
    train = f"python scripts/train.py --config=own{variant} --workdir={shlex.quote(f'runs/{name}')}"
    schema = shlex.quote(settings.output)
    if len(settings.file) == 1 and not bad_rows:
        path = shlex.quote(settings.file[0])
        return [f"{train} --config.data.path={path} --config.data.schema={schema}"]
    skip = " --on_bad_row=skip" if bad_rows else ""
    inputs, data = shlex.quote(",".join(settings.file)), shlex.quote(f"data/{name}")
    return [
        f"python scripts/prepare_data.py --schema={schema} --input={inputs} --output={data}{skip}",
        f"{train} --config.data.factory=blocks --config.data.path={data}",
    ]


def _unescape(separator: str | None) -> str | None:
    return "\t" if separator in ("\\t", "tab") else separator

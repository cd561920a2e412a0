"""Defines the files of an artefact and its manifest, and checks both when an artefact is opened."""

import dataclasses
import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from wukong_jax.errors import UserError
from wukong_jax.files.checksum import checksum_file
from wukong_jax.messages import first_line
from wukong_jax.ranges import AtLeast
from wukong_jax.strict_mapping import build_dataclass, to_mapping

FORMAT = 1
READABLE_DAYS = 180  # JAX reads exported programs of the last six months
MANIFEST, PROGRAM, WEIGHTS, SCHEMA, GOLDEN = (
    "manifest.json",
    "model.stablehlo",
    "weights.npz",
    "schema.json",
    "golden.npz",
)
ONNX, CALIBRATION = "model.onnx", "calibration.npz"
VOCABULARY, TABLES = "vocabulary", "tables"
TableDtype = Literal["float32", "bfloat16", "int8"]


@dataclasses.dataclass(frozen=True)
class ServedTable:
    """One table of an artefact."""

    name: str  # of its vocabulary
    rows: Annotated[int, AtLeast(1)]  # V
    width: Annotated[int, AtLeast(1)]  # columns of a row
    dtype: Literal["float32", "bfloat16", "int8"]


@dataclasses.dataclass(frozen=True)
class StoredFile:
    """What a file must be."""

    bytes: int
    digest: str  # of `files.checksum`


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What an artefact holds; see `wukong_jax.serving`."""

    format: int
    kind: Literal["stablehlo", "onnx"]
    name: str  # of the run's config
    created: str  # ISO 8601 date
    readable_until: str  # ISO 8601 date; until then every later JAX reads the program
    versions: Mapping[str, str]  # of the packages that wrote it
    platforms: tuple[str, ...]
    step: int  # training steps behind the weights
    objectives: tuple[str, ...]
    weights: tuple[str, ...]  # names in `weights.npz`, in the order of the program's arguments
    tables: tuple[ServedTable, ...]  # in the order of the program's arguments and of the files
    extras: Mapping[str, int]  # width of each joined column, by name
    tolerance: float  # largest relative difference of the golden rows' logits on another machine
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]  # of the run's summary, and of the artefact where it was evaluated
    calibration: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # kind, split and rows; empty: none
    files: Mapping[str, StoredFile] = dataclasses.field(default_factory=dict)  # all files but the manifest


def table_file(folder: Path, index: int, part: Literal["rows", "scales"]) -> Path:
    """Returns the path of a table's array; `index` counts in the order of the manifest."""
    return folder / TABLES / f"{index:04d}.{part}.npy"


def last_readable_day(created: datetime.date) -> datetime.date:
    """Returns the date until which later versions of JAX read a program that is exported on a day."""
    return created + datetime.timedelta(days=READABLE_DAYS)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes the manifest of a folder that is complete otherwise, with size and digest of every file in it."""
    files = {
        str(path.relative_to(folder)): StoredFile(path.stat().st_size, checksum_file(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    text = json.dumps(to_mapping(dataclasses.replace(manifest, files=files)), indent=1, allow_nan=False) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Reads a manifest.

    Raises:
      UserError: there is none, it is damaged, or it has another format.
    """
    path = folder / MANIFEST
    try:
        mapping = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give a folder that `wukong-jax export` wrote") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({first_line(error)[:100]}); export the run again") from None
    found = mapping.get("format") if isinstance(mapping, dict) else None
    if found != FORMAT or isinstance(found, bool):
        raise UserError(
            f"{path}: format = {str(found)[:20]}: this version reads format {FORMAT}; export the run again, or score "
            "with the version that wrote it"
        )
    return build_dataclass(Manifest, mapping, str(path))


def check_files(folder: Path, manifest: Manifest, tables: bool) -> None:
    """Compares the files with the manifest: sizes, and digests.

    Args:
      folder: the artefact.
      manifest: its manifest.
      tables: whether to compute the digests of tables, which reads them whole.

    Raises:
      UserError: a file is missing or was changed.
    """
    needed = {SCHEMA, PROGRAM, WEIGHTS, GOLDEN} if manifest.kind == "stablehlo" else {SCHEMA, ONNX}
    if manifest.calibration:
        needed.add(CALIBRATION)
    if manifest.kind == "stablehlo":
        for index, table in enumerate(manifest.tables):
            needed.add(str(table_file(folder, index, "rows").relative_to(folder)))
            if table.dtype == "int8":
                needed.add(str(table_file(folder, index, "scales").relative_to(folder)))
    for name in sorted(needed - set(manifest.files)):
        raise UserError(f"{folder / MANIFEST}: lists no file {name!r}; export the run again")
    for name, stored in manifest.files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{folder / MANIFEST}: lists {name!r}, which is outside the folder; export the run again")
        try:
            size = path.stat().st_size
            if size != stored.bytes:
                raise UserError(f"{path}: has {size} bytes instead of {stored.bytes}; copy or export it again")
            if (tables or not name.startswith(f"{TABLES}/")) and checksum_file(path) != stored.digest:
                raise UserError(f"{path}: is not the file that was exported (its digest differs); copy it again")
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; copy the whole folder, or export the run again") from None

"""Defines the data sources that provide a run's rows; a config chooses one by `config.data.factory`.

A source either names a folder of row blocks or prepares one. Its factory is called as build(options, path, schema)
with the values of `config.data`, and raises a UserError for values that it does not use. The same interface holds for
sources from other packages.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from wukong_jax.data.blocks.store_copy import keep_copy
from wukong_jax.data.planted.clicks import PlantedClicks, PlantedClicksConfig, write_planted_clicks
from wukong_jax.data.planted.portfolios import PlantedPortfolios
from wukong_jax.data.planted.portfolios_config import PlantedPortfoliosConfig
from wukong_jax.data.planted.portfolios_folder import write_planted_portfolios
from wukong_jax.data.raw.builtin_schemas import find_schema
from wukong_jax.data.raw.input_files import find_input_files
from wukong_jax.data.raw.prepare import prepare_data
from wukong_jax.errors import UserError
from wukong_jax.files.object_store import is_store_url, refuse_store
from wukong_jax.schema import Schema, load_schema
from wukong_jax.strict_mapping import build_dataclass, to_mapping

OPTIONS = "config.data.options"


@dataclasses.dataclass(frozen=True)
class RowSource:
    """A source of rows: either an existing folder of row blocks or a function that prepares one."""

    schema: Callable[[], Schema]  # returns the schema, resolved or not, without reading rows
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # all options, as stored in the run's config
    folder: Path | str | None = None  # folder of existing row blocks; a text: its URL on an object store
    prepare: Callable[[Path], Any] | None = None  # writes row blocks to a folder that does not exist yet
    # lists the raw files that `prepare` reads, each with the number of its split; None: it reads none
    files: Callable[[], list[tuple[Path, int]]] | None = None

    def __post_init__(self) -> None:
        """Checks that exactly one of `folder` and `prepare` is given."""
        if (self.folder is None) == (self.prepare is None):
            raise UserError("config.data.factory: the source must name a folder of row blocks or prepare one, not both")


@dataclasses.dataclass(frozen=True)
class RawOptions:
    """`config.data.options` of the source "raw"."""

    on_bad_row: Literal["stop", "skip"] = "stop"  # what to do at a malformed row


def build_raw(options: Mapping[str, Any], path: str, schema: str) -> RowSource:
    """Builds the source of raw files with a given schema, which are prepared in the run's folder.

    Raises:
      UserError: an option is unknown, or there is no path or schema.
    """
    built = build_dataclass(RawOptions, options, OPTIONS)
    _require_path(path, "raw")
    refuse_store("config.data.path", path, "copy the raw files to a local disk, or give row blocks of prepare_data")
    if not schema:
        raise UserError("config.data.schema = '': 'raw' needs a built-in schema's name or a JSON file")

    def prepare(directory: Path) -> None:
        report = prepare_data(find_schema(schema), [Path(path)], directory, on_bad_row=built.on_bad_row)
        for line in report["warnings"]:
            print(f"warning: {line}", file=sys.stderr, flush=True)

    def list_files() -> list[tuple[Path, int]]:
        found = find_schema(schema)
        return find_input_files([path], found.source, found.split)

    return RowSource(functools.partial(find_schema, schema), to_mapping(built), prepare=prepare, files=list_files)


def build_blocks(options: Mapping[str, Any], path: str, schema: str) -> RowSource:
    """Builds the source of row blocks in a prepared folder, as wukong-jax prepare_data writes it.

    Raises:
      UserError: options or a schema are given, which blocks do not take, or there is no path.
    """
    if options:
        raise UserError(f"{OPTIONS}.{next(iter(options))}: 'blocks' has no options; leave it out")
    if schema:
        raise UserError(f"config.data.schema = {schema!r}: blocks carry their own schema; leave it empty")
    _require_path(path, "blocks")
    if is_store_url(path):
        return RowSource(lambda: load_schema(keep_copy(path) / "schema.json"), folder=path)
    return RowSource(lambda: load_schema(Path(path) / "schema.json"), folder=Path(path))


def build_planted_clicks(options: Mapping[str, Any], path: str, schema: str) -> RowSource:
    """Builds the source of generated clicks with a known Bayes loss; options are those of `PlantedClicksConfig`.

    Raises:
      UserError: an option is invalid, or a path or schema is given.
    """
    built = build_dataclass(PlantedClicksConfig, options, OPTIONS)
    _refuse_files(path, schema, "planted_clicks")
    return _build_planted(built, PlantedClicks, write_planted_clicks)


def build_planted_portfolios(options: Mapping[str, Any], path: str, schema: str) -> RowSource:
    """Builds the source of generated domains and objectives; options are those of `PlantedPortfoliosConfig`.

    Raises:
      UserError: an option is invalid, or a path or schema is given.
    """
    built = build_dataclass(PlantedPortfoliosConfig, options, OPTIONS)
    _refuse_files(path, schema, "planted_portfolios")
    return _build_planted(built, PlantedPortfolios, write_planted_portfolios)


def _build_planted(settings: Any, generator: Any, write: Callable[[Any, Path], Any]) -> RowSource:
    prepare = functools.partial(write, settings)
    return RowSource(lambda: generator(settings).schema(), to_mapping(settings), prepare=prepare)


def _require_path(path: str, name: str) -> None:
    if not path:
        raise UserError(f"config.data.path = '': {name!r} needs a file or folder, as --config.data.path=FOLDER")


def _refuse_files(path: str, schema: str, name: str) -> None:
    if path or schema:
        key, value = ("path", path) if path else ("schema", schema)
        raise UserError(f"config.data.{key} = {value!r}: {name!r} reads no files; use 'raw' or 'blocks'")

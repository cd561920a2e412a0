"""The schemas of the data sets that merged rows were made of, kept beside them to encode raw rows of each.

`DIR/data_sets.json` holds, by the data set's name, its own resolved schema, which describes its raw rows, and that
schema with columns named as in the merged one. New raw rows are encoded with the merged vocabularies and moments, so a
user who is known from another data set has an id here, too.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from wukong_jax.errors import UserError
from wukong_jax.schema import Schema
from wukong_jax.strict_mapping import build_dataclass, to_mapping

_FILE = "data_sets.json"


class DataSetSchemas(NamedTuple):
    """The schemas of one of the merged data sets."""

    raw: Schema  # of its raw rows
    renamed: Schema  # the same columns, named as in the merged schema


def save_data_sets(directory: Path, data_sets: Mapping[str, DataSetSchemas]) -> None:
    """Writes the schemas of merged data sets beside their rows.

    Raises:
      OSError: the file cannot be written.
    """
    content = {
        name: {"raw": to_mapping(one.raw), "renamed": to_mapping(one.renamed)} for name, one in data_sets.items()
    }
    (directory / _FILE).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def load_data_set(directory: Path, name: str, merged: Schema) -> DataSetSchemas:
    """Reads the schemas of a data set, with what the merged rows resolved.

    Args:
      directory: folder of merged rows.
      name: name of the data set; empty: none was given.
      merged: the merged schema.

    Returns:
      The schemas; standardised columns have the moments of the merged rows.

    Raises:
      UserError: there is no such data set, or its schema is not beside the rows.
    """
    path = directory / _FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        mappings = {key: content[key] for key in content}
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path}: cannot read ({type(error).__name__}), and raw rows need it; use the folder of merge_datasets"
        ) from None
    if name not in mappings:
        given = f"{name} is no data set of these rows" if name else "none given"
        raise UserError(f"--data_set: {given}; name the one whose raw rows these are: {', '.join(mappings)}")
    raw, renamed = (build_dataclass(Schema, mappings[name].get(key), f"{path}: {name}") for key in ("raw", "renamed"))
    resolved = {column.name: column for column in merged.dense}

    def resolve(schema: Schema) -> Schema:
        dense = [
            dataclasses.replace(
                column,
                mean=resolved[now.name].mean,
                standard_deviation=resolved[now.name].standard_deviation,
            )
            for column, now in zip(schema.dense, renamed.dense, strict=True)
        ]
        return dataclasses.replace(schema, dense=tuple(dense))

    return DataSetSchemas(resolve(raw), resolve(renamed))

"""Changes a schema's split or minimum count for preparing data."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from wukong_jax.errors import UserError
from wukong_jax.schema import Schema, Split

# Options by kind of split.
SPLIT_OPTIONS = {
    "file": ("train", "validation", "test", "seed", "validation_share_of_test"),
    "random": ("validation_fraction", "test_fraction", "seed"),
    "time": ("validation_fraction", "test_fraction"),
    "order": ("validation_fraction", "test_fraction"),
}


def change_split(schema: Schema, by: str | None, options: Mapping[str, Any]) -> Schema:
    """Returns the schema with another split.

    Args:
      schema: a schema that is not resolved.
      by: the kind of split; None for the schema's kind.
      options: options of the split. Other options are the schema's if the kind is the same, else the defaults.

    Raises:
      UserError: the split has no such option, or a value is out of range.
    """
    kind = by or schema.split.by
    for name, value in sorted(options.items()):
        if name not in SPLIT_OPTIONS[kind]:
            raise UserError(f"--{name} = {value!r}: a split by {kind!r} has no such option")
    if not by and not options:
        return schema
    kept = dataclasses.asdict(schema.split) if kind == schema.split.by else {}
    return dataclasses.replace(schema, split=Split(**{**kept, "by": kind, **options}))


def change_min_count(schema: Schema, min_count: int) -> Schema:
    """Returns the schema with another minimum count for every vocabulary."""

    def change(columns: tuple) -> tuple:
        return tuple(
            dataclasses.replace(column, min_count=min_count)
            if column.encoding == "vocabulary" and column.vocabulary_of is None
            else column
            for column in columns
        )

    return dataclasses.replace(schema, categorical=change(schema.categorical), sequences=change(schema.sequences))

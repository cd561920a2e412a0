"""Writes a schema as short JSON, to be edited by hand: one line per column, without keys at their defaults."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from wukong_jax.schema import Schema
from wukong_jax.strict_mapping import to_mapping


def format_schema(schema: Schema) -> str:
    """Returns JSON text that `load_schema` reads back as the same schema."""
    lines = []
    for key, value in _shorten(schema).items():
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            entries = ",\n".join(f"  {_json(entry)}" for entry in value)
            lines.append(f" {_json(key)}: [\n{entries}\n ]")
        else:
            lines.append(f" {_json(key)}: {_json(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


# Keys that are written even at their defaults, because they are the first to be changed.
_SHOWN = {"split": ("by", "validation_fraction", "test_fraction")}


def _shorten(part: Any, shown: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the fields of a dataclass that are not at their defaults; those without a default are always kept."""
    short: dict[str, Any] = {}
    whole = to_mapping(part)
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if value == field.default and field.name not in shown:
            continue
        if dataclasses.is_dataclass(value):
            short[field.name] = _shorten(value, _SHOWN.get(field.name, ()))
        elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            short[field.name] = [_shorten(entry) for entry in value]
        else:
            short[field.name] = whole[field.name]
    return short

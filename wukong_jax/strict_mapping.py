"""Converts mappings to frozen dataclasses and back, with errors that name unknown keys and wrong types."""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from wukong_jax.errors import UserError
from wukong_jax.ranges import Range

T = TypeVar("T")
_LARGEST = 2**63 - 1


def build_dataclass(cls: type[T], mapping: Any, where: str) -> T:
    """Builds a (nested) dataclass from a mapping.

    Args:
      cls: the dataclass type. Its fields may be scalars, tuples, mappings, optionals or dataclasses, `Annotated` with a
        range of `wukong_jax.ranges` if values are limited.
      mapping: values by key, as read from JSON or an ml_collections dict.
      where: prefix of the keys in error messages, such as `config.data`.

    Returns:
      An instance of `cls`; its `__post_init__` may make further checks.

    Raises:
      UserError: a key is unknown or missing, or a value has the wrong type or is out of range.
    """
    if not isinstance(mapping, Mapping):
        raise UserError(f"{where} = {_shorten(mapping)}: expected a mapping with the keys of {cls.__name__}")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in mapping:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(fields)}"
            raise UserError(f"{where}.{key} = {_shorten(mapping[key])}: unknown key; {hint}")
    hints = typing.get_type_hints(cls, include_extras=True)
    values = {}
    for name, field in fields.items():
        if name in mapping:
            values[name] = _convert(hints[name], mapping[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UserError(f"{where}.{name}: missing; add it ({_strip_range(hints[name])})")
    try:
        return cls(**values)
    except UserError as error:
        raise UserError(f"{where}.{error}") from None


def to_mapping(instance: Any) -> Any:
    """Inverts `build_dataclass`: converts dataclasses to dicts and tuples to lists, for JSON."""
    if dataclasses.is_dataclass(instance):
        return {f.name: to_mapping(getattr(instance, f.name)) for f in dataclasses.fields(instance)}
    if isinstance(instance, Mapping):
        return {key: to_mapping(value) for key, value in instance.items()}
    if isinstance(instance, list | tuple):
        return [to_mapping(value) for value in instance]
    return instance


def _shorten(value: Any, characters: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= characters else text[:characters] + "..."


def _strip_range(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint


def _convert(hint: Any, value: Any, where: str, *, ranged: bool = False) -> Any:
    """Converts a value; `ranged`: a range is checked afterwards, which refuses NaN."""
    if typing.get_origin(hint) is typing.Annotated:
        inner, *limits = typing.get_args(hint)
        ranges = [limit for limit in limits if isinstance(limit, Range)]
        converted = _convert(inner, value, where, ranged=bool(ranges))
        for limit in ranges:
            limit.check(where, converted)
        return converted
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        inner = [a for a in arguments if a is not type(None)]
        return _convert(inner[0], value, where, ranged=ranged)
    if origin is typing.Literal:
        if value not in arguments:
            raise UserError(f"{where} = {_shorten(value)}: not one of {', '.join(map(repr, arguments))}")
        return value
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else build_dataclass(hint, value, where)  # type: ignore[arg-type]
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, list | tuple):
            raise UserError(f"{where} = {_shorten(value)}: expected a list")
        return tuple(_convert(arguments[0], item, f"{where}[{i}]", ranged=ranged) for i, item in enumerate(value))
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise UserError(f"{where} = {_shorten(value)}: expected a mapping")
        return {str(key): _convert(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, float) and math.isnan(value) and not ranged:
        raise UserError(f"{where} = nan: is not a number; give one")
    return _convert_scalar(hint, value, where)


def _convert_scalar(hint: type, value: Any, where: str) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and not -_LARGEST <= value <= _LARGEST:
        raise UserError(f"{where} = {_shorten(value)}: does not fit 64 bits; give a smaller number")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, hint) and not (hint is not bool and isinstance(value, bool)):
        return value
    raise UserError(f"{where} = {_shorten(value)}: expected {hint.__name__}, got {type(value).__name__}")


def list_changes(old: Any, new: Any, key: str = "") -> dict[str, tuple[Any, Any]]:
    """Lists the differences between two mappings at any depth; missing keys equal None, and None an empty mapping.

    Args:
      old: a mapping or a dataclass; tuples equal lists.
      new: the mapping or dataclass to compare with.
      key: dotted key of both, "" for the root.

    Returns:
      (old value, new value) by dotted key, in alphabetical order.
    """
    old, new = to_mapping(old), to_mapping(new)
    if not (isinstance(old, dict | None) and isinstance(new, dict | None)):
        return {} if old == new else {key: (old, new)}
    old, new = old or {}, new or {}
    changes: dict[str, tuple[Any, Any]] = {}
    for name in sorted(old.keys() | new.keys()):
        changes |= list_changes(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    return changes

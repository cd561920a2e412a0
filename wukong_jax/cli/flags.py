"""Reads flags from the fields of a settings dataclass, and parses their values.

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings:
        output: Annotated[str, "folder to create"]                                    # no default: required
        rows: Annotated[int, "rows to write", AtLeast(1)] = 1000                      # a range of `wukong_jax.ranges`
        seeds: Annotated[tuple[int, ...], "seeds to train with"] = (0, 1)             # --seeds=0,1
        order: Annotated[Literal["time", "file"] | None, "order of the rows"] = None  # --order=time

Every field is a flag of the same name, and the text in its `Annotated` is the flag's help. If a field is itself a
dataclass, its fields are flags, too.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NewType

from wukong_jax.files.object_store import refuse_store
from wukong_jax.ranges import Range

# Types of fields that are not flags. The parser fills them in.
ConfigChanges = NewType("ConfigChanges", tuple)  # every `--config.key=value`, as "key=value"
CommandLine = NewType("CommandLine", str)  # the whole command line, to be stored with the results


@dataclasses.dataclass(frozen=True)
class Positional:
    """Marks a field, in its `Annotated`, as positional arguments."""


@dataclasses.dataclass(frozen=True)
class MayBeStore:
    """Marks a field, in its `Annotated`, as a path that may be a URL of an object store; others refuse one."""


@dataclasses.dataclass(frozen=True)
class Flag:
    """One field of a settings dataclass."""

    name: str
    hint: Any  # type of the field, without `Annotated`
    meaning: str
    ranges: tuple[Range, ...]
    default: Any  # dataclasses.MISSING if the flag is required
    positional: bool
    may_be_store: bool = False

    @property
    def required(self) -> bool:
        """Whether the flag is required."""
        return self.default is dataclasses.MISSING

    def parse(self, texts: list[str]) -> Any:
        """Parses the given texts; unless the value is a list, the last text counts.

        Raises:
          ValueError: a text has the wrong type; the message tells what is expected.
          UserError: the value is out of range.
        """
        if self.positional:
            value = tuple(parse_value(typing.get_args(self.hint)[0], text) for text in texts)
        else:
            value = parse_list(self.hint, texts) if is_list(self.hint) else parse_value(self.hint, texts[-1])
        for limits in self.ranges:
            limits.check(f"--{self.name}", value)
        for text in () if self.may_be_store else texts:
            refuse_store(f"--{self.name}", text, "this command needs a local path here")
        return value

    def __str__(self) -> str:
        """Returns the help of the flag: meaning, range and default."""
        notes = [str(limits) for limits in self.ranges]
        if not self.required and self.default is not False and self.default not in (None, "", (), {}):
            notes.append(f"default: {format_value(self.default)}")
        if notes and self.meaning.endswith(")"):
            return f"{self.meaning[:-1]}; {'; '.join(notes)})"
        return self.meaning + (f" ({'; '.join(notes)})" if notes else "")


def list_flags(settings: type) -> Iterator[Flag]:
    """Yields the flags of a settings dataclass, in the order of its fields."""
    hints = typing.get_type_hints(settings, include_extras=True)
    for field in dataclasses.fields(settings):
        hint = hints[field.name]
        hint, *extras = typing.get_args(hint) if typing.get_origin(hint) is Annotated else (hint,)
        if dataclasses.is_dataclass(hint):
            yield from list_flags(hint)  # type: ignore[arg-type]
        elif hint not in (ConfigChanges, CommandLine):
            made = field.default_factory
            yield Flag(
                name=field.name,
                hint=hint,
                meaning=next((extra for extra in extras if isinstance(extra, str)), ""),
                ranges=tuple(extra for extra in extras if isinstance(extra, Range)),
                default=field.default if made is dataclasses.MISSING else made(),
                positional=any(isinstance(extra, Positional) for extra in extras),
                may_be_store=any(isinstance(extra, MayBeStore) for extra in extras),
            )


def is_list(hint: Any) -> bool:
    """Returns whether a flag of this type takes several values."""
    return typing.get_origin(hint) in (tuple, Mapping)


def parse_list(hint: Any, texts: list[str]) -> Any:
    """Parses the items of all texts to a tuple, or name=value items to a mapping.

    Items are separated by commas, or by semicolons if the text has one, so that items may contain commas.

    Raises:
      ValueError: an item has the wrong type; the message tells what is expected.
    """
    named = typing.get_origin(hint) is Mapping
    item = typing.get_args(hint)[-1 if named else 0]
    parts = [part for text in texts if text for part in text.split(";" if ";" in text else ",")]
    if "" in parts:
        raise ValueError("an item of the list is empty")
    if not named:
        return tuple(parse_value(item, part) for part in parts)
    pairs = [part.rpartition("=") for part in parts]
    example = "name=text, as in one=this,other=that" if item is str else "name=number, as in one=1,other=0.5"
    for place, (part, (name, _, _)) in enumerate(zip(parts, pairs, strict=True)):
        if not name:
            raise ValueError(f"{part!r} is not {example}")
        if name in (before for before, _, _ in pairs[:place]):
            raise ValueError(f"{name!r} is given twice; give each name once")
    return {name: parse_value(item, value) for name, _, value in pairs}


def parse_value(hint: Any, text: str) -> Any:
    """Parses one text.

    Raises:
      ValueError: the text has the wrong type; the message tells what is expected.
    """
    for kind in list_kinds(hint):
        if typing.get_origin(kind) is Literal:
            found = [choice for choice in typing.get_args(kind) if str(choice) == text]
        elif kind is bool:
            found = [value for name, value in (("true", True), ("false", False)) if name == text]
        else:
            found = _parse_scalar(kind, text)
        if found:
            return found[0]
    raise ValueError(f"{text!r} is not {' or '.join(map(describe_kind, list_kinds(hint)))}")


def list_kinds(hint: Any) -> list[Any]:
    """Lists the types that a value may have, except None."""
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return [kind for kind in kinds if kind is not type(None)]


def describe_kind(kind: Any) -> str:
    """Describes a type for error messages."""
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, typing.get_args(kind)))}"
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "a text")


def describe_metavar(hint: Any) -> str:
    """Returns the placeholder of a flag's value in the help."""
    if is_list(hint):
        item = describe_metavar(typing.get_args(hint)[-1 if typing.get_origin(hint) is Mapping else 0])
        return f"NAME={item},..." if typing.get_origin(hint) is Mapping else f"{item},..."
    kind = list_kinds(hint)[0]
    if typing.get_origin(kind) is Literal:
        return "{" + ",".join(map(str, typing.get_args(kind))) + "}"
    return {int: "N", float: "X", bool: "true|false"}.get(kind, "TEXT")


def format_value(value: Any) -> str:
    """Formats a value as it is written on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(format_value, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _parse_scalar(kind: type, text: str) -> list[Any]:
    try:
        value = kind(text)
    except ValueError:
        return []
    return [value] if kind is not float or math.isfinite(value) else []

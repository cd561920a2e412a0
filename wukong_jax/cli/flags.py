"""Flags described by a settings dataclass, and the values of their texts.

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings:
        output: Annotated[str, "the folder to make"]                             # no default: must be given
        rows: Annotated[int, "rows to write", AtLeast(1)] = 1000                 # a range of `wukong_jax.ranges`
        seeds: Annotated[tuple[int, ...], "a run for each"] = (0, 1)             # --seeds=0,1
        order: Annotated[Literal["time", "file"] | None, "of the rows"] = None   # --order=time

Every field is a flag of the same name, and the text in its `Annotated` is the flag's help. The fields of a field that
is itself a dataclass are flags, too.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NewType

from wukong_jax.ranges import Range

# Types of fields that are no flags of their own name. The parser fills them in.
ConfigChanges = NewType("ConfigChanges", tuple)  # every `--config.key=value`, as "key=value"
CommandLine = NewType("CommandLine", str)  # the whole command, to be kept with its results


@dataclasses.dataclass(frozen=True)
class Positional:
    """Marks a field, in its `Annotated`, as arguments without a flag's name."""


@dataclasses.dataclass(frozen=True)
class Flag:
    """One field of a settings dataclass."""

    name: str
    hint: Any  # its type, without `Annotated`
    meaning: str
    ranges: tuple[Range, ...]
    default: Any  # dataclasses.MISSING: the flag must be given
    positional: bool

    @property
    def required(self) -> bool:
        """Whether the flag must be given."""
        return self.default is dataclasses.MISSING

    def parse(self, texts: list[str]) -> Any:
        """The value of the texts that were given, the last of them where the value is no list.

        Raises:
          ValueError: a text that is no such value; the message says what is expected.
          UserError: the value is out of range.
        """
        if self.positional:
            value = tuple(parse_value(typing.get_args(self.hint)[0], text) for text in texts)
        else:
            value = parse_list(self.hint, texts) if is_list(self.hint) else parse_value(self.hint, texts[-1])
        for limits in self.ranges:
            limits.check(f"--{self.name}", value)
        return value

    def __str__(self) -> str:
        """The flag's help: its meaning, then range and default."""
        notes = [str(limits) for limits in self.ranges]
        if not self.required and self.default is not False and self.default not in (None, "", (), {}):
            notes.append(f"default: {format_value(self.default)}")
        if notes and self.meaning.endswith(")"):
            return f"{self.meaning[:-1]}; {'; '.join(notes)})"
        return self.meaning + (f" ({'; '.join(notes)})" if notes else "")


def list_flags(settings: type) -> Iterator[Flag]:
    """The flags of a settings dataclass, in the order of its fields."""
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
            )


def is_list(hint: Any) -> bool:
    """Whether a flag of this type takes several texts."""
    return typing.get_origin(hint) in (tuple, Mapping)


def parse_list(hint: Any, texts: list[str]) -> Any:
    """The items of all texts: a tuple, or a mapping of name=value items.

    Items are separated by commas; by semicolons where there is one, so that items may hold commas.

    Raises:
      ValueError: an item is no such value; the message says what is expected.
    """
    named = typing.get_origin(hint) is Mapping
    item = typing.get_args(hint)[-1 if named else 0]
    parts = [part for text in texts if text for part in text.split(";" if ";" in text else ",")]
    if "" in parts:
        raise ValueError("an item of the list is empty")
    if not named:
        return tuple(parse_value(item, part) for part in parts)
    pairs = [part.rpartition("=") for part in parts]
    for part, (name, _, _) in zip(parts, pairs, strict=True):
        if not name:
            raise ValueError(f"{part!r} is not name=number, as in one=1,other=0.5")
    return {name: parse_value(item, value) for name, _, value in pairs}


def parse_value(hint: Any, text: str) -> Any:
    """The value of one text.

    Raises:
      ValueError: it is no such value; the message says what is expected.
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
    """The types that a value may have, None left out."""
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return [kind for kind in kinds if kind is not type(None)]


def describe_kind(kind: Any) -> str:
    """A type in words, as in "expected ..."."""
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, typing.get_args(kind)))}"
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "a text")


def describe_metavar(hint: Any) -> str:
    """What stands for a flag's value in the help."""
    if is_list(hint):
        item = describe_metavar(typing.get_args(hint)[-1 if typing.get_origin(hint) is Mapping else 0])
        return f"NAME={item},..." if typing.get_origin(hint) is Mapping else f"{item},..."
    kind = list_kinds(hint)[0]
    if typing.get_origin(kind) is Literal:
        return "{" + ",".join(map(str, typing.get_args(kind))) + "}"
    return {int: "N", float: "X", bool: "true|false"}.get(kind, "TEXT")


def format_value(value: Any) -> str:
    """A value as its flag would be written."""
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

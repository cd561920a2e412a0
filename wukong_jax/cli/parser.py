"""Parses the command line of any command to its settings dataclass.

`--name=value` and `--name value` are equivalent. Items of lists are separated by commas (`--seeds=0,1,2`); repeating a
flag adds to its list. `--name` alone turns a switch on; it also takes true or false.
"""

import argparse
import dataclasses
import difflib
import re
import shlex
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from wukong_jax.cli.flags import CommandLine, ConfigChanges, Flag, describe_metavar, list_flags, list_kinds
from wukong_jax.errors import UserError

T = TypeVar("T")
_CHANGE = re.compile(r"--(no)?config\.([^=]+)(=.*)?", re.DOTALL)


class UsageError(UserError):
    """A command line that cannot be parsed."""


def parse_settings(settings: type[T], arguments: Sequence[str], name: str, description: str) -> T:
    """Parses a command's arguments.

    Args:
      settings: a frozen dataclass, see `wukong_jax.cli.flags`.
      arguments: arguments after the command's name.
      name: name of the command.
      description: text that `--help` prints above the flags.

    Returns:
      The settings.

    Raises:
      SystemExit: with code 0 after `--help`.
      UsageError: a flag is unknown, missing or has a wrong value, or flags contradict each other.
    """
    flags = {flag.name: flag for flag in list_flags(settings)}
    rest, changes = _split_changes(arguments) if _takes_changes(settings) else (list(arguments), ())
    parsed, unknown = _build_parser(flags.values(), name, description, settings).parse_known_args(rest)
    if unknown:
        raise UsageError(_explain_unknown(unknown[0], flags))
    values = {}
    for flag in flags.values():
        texts = getattr(parsed, flag.name)
        if texts is not None:
            values[flag.name] = _parse(flag, [text for group in texts for text in group])
        elif flag.required:
            raise UsageError(f"--{flag.name} is missing")
    try:
        return _build(settings, values, changes, shlex.join(["wukong-jax", name, *arguments]))
    except UserError as error:
        raise UsageError(str(error)) from None


def _parse(flag: Flag, texts: list[str]) -> Any:
    try:
        return flag.parse(texts)
    except ValueError as error:
        raise UsageError(f"--{flag.name} = {','.join(texts)!r}: {error}") from None
    except UserError as error:
        raise UsageError(str(error)) from None


def _build(settings: type[T], values: Mapping[str, Any], changes: tuple[str, ...], command: str) -> T:
    """Builds a settings dataclass, including fields that are dataclasses."""
    hints = typing.get_type_hints(settings)
    given: dict[str, Any] = {}
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            given[field.name] = _build(hint, values, changes, command)  # type: ignore[arg-type]
        elif hint in (ConfigChanges, CommandLine):
            given[field.name] = changes if hint is ConfigChanges else command
        elif field.name in values:
            given[field.name] = values[field.name]
    return settings(**given)


def _takes_changes(settings: type) -> bool:
    return ConfigChanges in typing.get_type_hints(settings).values()


def _split_changes(arguments: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Separates `--config.key=value` flags; returns (other arguments, "key=value" of each)."""
    rest, changes = [], []
    queue = list(arguments)
    while queue:
        argument = queue.pop(0)
        match = _CHANGE.fullmatch(argument)
        if match is None:
            rest.append(argument)
        elif match[3] is not None:
            changes.append(match[2] + match[3])
        elif not match[1] and queue and not queue[0].startswith("--"):
            changes.append(f"{match[2]}={queue.pop(0)}")
        else:
            changes.append(f"{match[2]}={'false' if match[1] else 'true'}")
    return rest, tuple(changes)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "))


def _build_parser(flags: typing.Iterable[Flag], name: str, description: str, settings: type) -> argparse.ArgumentParser:
    flags = list(flags)
    needed = [f"--{flag.name}={describe_metavar(flag.hint)}" for flag in flags if flag.required and not flag.positional]
    needed += [f"{flag.name.upper()}..." for flag in flags if flag.positional]
    changes = "--config.KEY=VALUE changes a key of the config, such as --config.training.steps=1000."
    parser = _Parser(
        prog=f"wukong-jax {name}",
        usage=" ".join(["%(prog)s", *needed, "[flags]"]),
        description=description.strip(),
        epilog=changes if _takes_changes(settings) else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    group = parser.add_argument_group("flags")
    group.add_argument("-h", "--help", action="help", help="print this help")
    for flag in flags:
        texts: dict[str, Any] = {"nargs": 1, "metavar": describe_metavar(flag.hint)}
        if list_kinds(flag.hint) == [bool]:
            texts |= {"nargs": "?", "const": ["true"], "type": lambda text: [text]}
        if flag.positional:
            texts |= {"nargs": "+", "metavar": flag.name.upper()}
        named = flag.name if flag.positional else f"--{flag.name}"
        group.add_argument(named, action="append", help=str(flag).replace("%", "%%"), **texts)
    return parser


def _explain_unknown(argument: str, flags: Mapping[str, Flag]) -> str:
    if not argument.startswith("--"):
        return f"unexpected argument {argument!r}; flags look like --name=value"
    name = argument[2:].partition("=")[0]
    near = difflib.get_close_matches(name, flags, n=1)
    return f"unknown flag --{name}" + (f"; did you mean --{near[0]}?" if near else "")

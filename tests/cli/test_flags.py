"""Tests flags derived from a settings dataclass: types, ranges, lists, and values that cannot be parsed."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Literal

import pytest

from wukong_jax.cli.flags import CommandLine, ConfigChanges, Positional
from wukong_jax.cli.parser import UsageError, parse_settings
from wukong_jax.errors import UserError
from wukong_jax.ranges import Above, AtLeast


@dataclasses.dataclass(frozen=True)
class Inner:
    width: Annotated[int, "of a thing"] = 4
    names: Annotated[tuple[str, ...], "of things"] = ("a", "b")

    def __post_init__(self) -> None:
        if self.width == 13:
            raise UserError("width = 13: unlucky")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    output: Annotated[str, "where to"]
    rows: Annotated[int, "to write", AtLeast(1)] = 10
    rate: Annotated[float | None, "of it", Above(0)] = None
    quick: Annotated[bool, "or not"] = False
    wait: Annotated[bool | None, "or not, 100 %"] = None
    order: Annotated[Literal["time", "file"], "of rows"] = "time"
    seeds: Annotated[tuple[int, ...], "of runs", AtLeast(0)] = ()
    speeds: Annotated[tuple[float | Literal["unlimited"], ...], "of links"] = ("unlimited", 2.0)
    weights: Annotated[Mapping[str, float], "of parts"] = dataclasses.field(default_factory=dict)
    inner: Inner
    changes: ConfigChanges
    command: CommandLine


@dataclasses.dataclass(frozen=True, kw_only=True)
class Files:
    files: Annotated[tuple[str, ...], "to read", Positional()]


def parse(*arguments: str) -> Settings:
    return parse_settings(Settings, ["--output=o", *arguments], "try", "Try it.")


def test_defaults_are_the_dataclass_own():
    settings = parse()
    assert (settings.output, settings.rows, settings.rate, settings.quick, settings.wait) == (
        "o",
        10,
        None,
        False,
        None,
    )
    assert (settings.inner, settings.weights, settings.changes) == (Inner(), {}, ())


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["--rows=20"], "rows", 20),
        (["--rows", "20"], "rows", 20),
        (["--rows=1", "--rows=2"], "rows", 2),
        (["--rate=1e-3"], "rate", 1e-3),
        (["--rate=2"], "rate", 2.0),
        (["--quick"], "quick", True),
        (["--quick=true"], "quick", True),
        (["--quick", "false"], "quick", False),
        (["--wait=false"], "wait", False),
        (["--wait"], "wait", True),
        (["--order=file"], "order", "file"),
        (["--seeds=0,1,2"], "seeds", (0, 1, 2)),
        (["--seeds=0", "--seeds=1,2"], "seeds", (0, 1, 2)),
        (["--seeds="], "seeds", ()),
        (["--speeds=unlimited,100,2.5"], "speeds", ("unlimited", 100.0, 2.5)),
        (["--weights=a/b=1,c=0.5"], "weights", {"a/b": 1.0, "c": 0.5}),
        (["--width=8"], "inner", Inner(width=8)),
        (["--names=a,b;c"], "inner", Inner(names=("a,b", "c"))),
        (["--output=a=b,c"], "output", "a=b,c"),
        (["--config.a.b=1", "--config.c", "x y", "--config.on", "--noconfig.off"], "changes", None),
    ],
)
def test_values_are_parsed_by_their_types(arguments, name, value):
    if name == "changes":
        value = ("a.b=1", "c=x y", "on=true", "off=false")
    found = getattr(parse(*arguments), name)
    assert (found, type(found)) == (value, type(value))


def test_the_command_line_is_kept_as_one_would_type_it():
    assert parse("--names=a;b").command == "wukong-jax try --output=o '--names=a;b'"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows=many"], "--rows = 'many': 'many' is not a whole number"),
        (["--rows=1.5"], "is not a whole number"),
        (["--rows=0"], "--rows = 0: must be at least 1"),
        (["--rate=-1"], "--rate = -1.0: must be above 0"),
        (["--rate=nan"], "'nan' is not a number"),
        (["--rate=inf"], "'inf' is not a number"),
        (["--quick=yes"], "'yes' is not true or false"),
        (["--wait="], "'' is not true or false"),
        (["--order=size"], "'size' is not one of time, file"),
        (["--seeds=0,x"], "--seeds = '0,x': 'x' is not a whole number"),
        (["--seeds=0,,1"], "an item of the list is empty"),
        (["--seeds=0,-1"], "must be all at least 0"),
        (["--speeds=fast"], "'fast' is not a number or one of unlimited"),
        (["--weights=a"], "'a' is not name=number"),
        (["--weights=a=b"], "'b' is not a number"),
        (["--weights=a=1,a=2"], "'a' is given twice"),
        (["--row=3"], "unknown flag --row; did you mean --rows?"),
        (["--somewhere=3"], "unknown flag --somewhere"),
        (["somewhere"], "unexpected argument 'somewhere'"),
        (["--rows"], "--rows"),
        (["--seeds", "0", "1"], "unexpected argument '1'"),
    ],
)
def test_a_wrong_command_line_is_named(arguments, message):
    with pytest.raises(UsageError) as error:
        parse(*arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_flag_is_named():
    with pytest.raises(UsageError, match="--output is missing"):
        parse_settings(Settings, [], "try", "")


def test_settings_that_refuse_each_other_are_a_usage_error():
    with pytest.raises(UsageError, match="width = 13: unlucky"):
        parse("--width=13")


def test_changes_of_a_config_are_unknown_to_a_command_without_one():
    with pytest.raises(UsageError, match=r"unknown flag --config\.a"):
        parse_settings(Inner, ["--config.a=1"], "try", "")


def test_positional_arguments_are_not_split():
    assert parse_settings(Files, ["a,b.json", "c.json"], "try", "").files == ("a,b.json", "c.json")
    with pytest.raises(UsageError, match="required: FILES"):
        parse_settings(Files, [], "try", "")


def test_help_names_every_flag_with_meaning_range_and_default(capsys):
    with pytest.raises(SystemExit) as ended:
        parse("--help")
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith("usage: wukong-jax try --output=TEXT [flags] Try it.")
    for part in (
        "--rows N to write (at least 1; default: 10)",
        "--rate X of it (above 0)",
        "--quick [true|false] or not",
        "or not, 100 %",
        "--order {time,file} of rows (default: time)",
        "--speeds X,... of links (default: unlimited,2)",
        "--weights NAME=X,... of parts",
        "--width N of a thing (default: 4)",
        "--config.KEY=VALUE",
    ):
        assert part in text, text
    assert "command" not in text

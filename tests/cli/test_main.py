"""Tests the command-line program: list of commands, help, exit codes, and the speed of help."""

import ast
import dataclasses
import inspect
import subprocess
import sys
import time
from types import ModuleType

import pytest

from tests.repository import ROOT
from wukong_jax.cli.commands import GROUPS, MODULES, load_command
from wukong_jax.cli.flags import list_flags
from wukong_jax.cli.main import main
from wukong_jax.errors import UserError

HELP_SECONDS = 2.0
# Prints each command's seconds from its load to the end of its help.
EVERY_HELP = """
import contextlib, io, sys, time
from wukong_jax.cli.commands import MODULES
from wukong_jax.cli.main import main
for name in MODULES:
    start = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()) as text:
        try:
            main(name, ["--help"])
            code = None
        except SystemExit as error:
            code = error.code
    print(name, code, time.process_time() - start, len(text.getvalue()))
print("heavy", *sorted({"jax", "polars", "orbax", "matplotlib", "scipy", "optuna"} & set(sys.modules)))
"""


def run_python(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_every_help_is_quick_and_ends_well():
    done = run_python("-c", EVERY_HELP)
    assert done.returncode == 0, done.stderr
    *lines, heavy = (line.split() for line in done.stdout.splitlines())
    assert [line[0] for line in lines] == list(MODULES)
    for name, code, seconds, characters in lines:
        assert code == "0", name
        assert float(seconds) < HELP_SECONDS, name
        assert int(characters) > 200, name
    assert heavy == ["heavy"]  # so it stays quick in a process of its own, too


def test_a_script_prints_its_help_quickly():
    start = time.monotonic()
    done = run_python("scripts/train.py", "--help")
    assert (done.returncode, "--workdir" in done.stdout) == (0, True), done.stderr
    assert time.monotonic() - start < 3 * HELP_SECONDS  # of a machine that may be busy


def test_scripts_and_commands_are_the_same():
    scripts = {path.stem: path.read_text() for path in (ROOT / "scripts").glob("*.py")}
    assert set(scripts) == set(MODULES)
    for name, text in scripts.items():
        code = [line for line in text.splitlines() if line]
        assert code[1:] == ["from wukong_jax.cli.main import main", f'main("{name}")']


def test_the_list_names_every_command_in_its_group(capsys):
    main("", ["--help"])
    text = capsys.readouterr().out
    blocks = {block.splitlines()[0].rstrip(":"): block for block in text.split("\n\n")}
    for group, names in GROUPS.items():
        for name in names:
            short = name.rpartition(".")[2]
            line = next(line for line in blocks[group].splitlines() if line.startswith(f"  {short} "))
            assert len(line) <= 120
            assert len(line.split(maxsplit=1)[1]) > 20


@pytest.mark.parametrize("name", MODULES)
def test_every_flag_has_a_meaning(name):
    command = load_command(name)
    assert dataclasses.is_dataclass(command.Settings)
    for flag in list_flags(command.Settings):
        assert len(flag.meaning) > 4, flag.name
    assert f"wukong-jax {name} " in (command.__doc__ or "")


@pytest.mark.parametrize("name", MODULES)
def test_a_command_imports_what_is_slow_at_the_start_of_run_alone(name):
    tree = ast.parse(inspect.getsource(load_command(name)))
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        inner = [node for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom)]
        assert not inner or function in tree.body, function.name
        assert not inner or function.name == "run", function.name


def test_dashes_name_a_command_too():
    assert load_command("prepare-data") is load_command("prepare_data")


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        ([], 2, "usage error: no command given; see --help"),
        (["trian"], 2, "usage error: unknown command 'trian'; did you mean train?; see --help"),
        (["evaluate"], 2, "usage error: --workdir is missing; see --help"),
        (["evaluate", "--workdir=w", "--split=all"], 2, "'all' is not one of train, validation, test; see --help"),
        (["keep_compiled", "--output=o", "nowhere.json"], 1, "error: nowhere.json: No such file or directory"),
        (["zip_windows", "--impressions=i", "--conversions=c", "--objective=o", "--output=o", "--windows=x"], 1, "x"),
    ],
)
def test_a_users_mistake_is_one_line_and_its_exit_code(capsys, arguments, code, line):
    with pytest.raises(SystemExit) as ended:
        main("", arguments)
    err = capsys.readouterr().err
    assert (ended.value.code, err.count("\n")) == (code, 1), err
    assert line in err


class FailingCommand(ModuleType):
    """A command whose run raises."""

    __doc__ = "Fails."
    Settings = dataclasses.make_dataclass("Settings", [])

    def __init__(self, error: BaseException) -> None:
        super().__init__("fails")
        self.error = error

    def run(self, settings):
        raise self.error


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("rows = 0: at least 1"), 1, "error: rows = 0: at least 1\n"),
        (FileNotFoundError(2, "No such file or directory", "a.csv"), 1, "error: a.csv: No such file or directory\n"),
        (OSError("no space\nleft"), 1, "error: the system: no space left\n"),
        (UserError("a\nb\x07.csv: gone"), 1, "error: a\\nb\\x07.csv: gone\n"),
        (BrokenPipeError(), 1, ""),
        (KeyboardInterrupt(), 130, ""),
        (SystemExit(143), 143, ""),
    ],
)
def test_what_ends_a_command_has_its_exit_code(capsys, monkeypatch, error, code, line):
    monkeypatch.setattr("wukong_jax.cli.main.load_command", lambda name: FailingCommand(error))
    with pytest.raises(SystemExit) as ended:
        main("fails", [])
    assert (ended.value.code, capsys.readouterr().err) == (code, line)

"""Tests that whatever ends a command is one line: failures of the machine, defects, signals and locales."""

import dataclasses
import errno
import json
import os
import re
import signal
import subprocess
import sys
from types import ModuleType

import polars as pl
import pytest
from jax.errors import JaxRuntimeError

from tests.repository import ROOT
from wukong_jax.cli.main import main
from wukong_jax.errors import UserError

C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


class Command(ModuleType):
    """A command whose run calls a function."""

    __doc__ = "Calls."

    def __init__(self, action, workdir="") -> None:
        super().__init__("calls")
        field = dataclasses.field(default=str(workdir))
        self.Settings = dataclasses.make_dataclass("Settings", [("workdir", str, field)])
        self.action = action

    def run(self, settings):
        self.action()


def end_of(monkeypatch, capsys, action, workdir=""):
    """Returns exit code and stderr of a command that calls a function."""
    monkeypatch.setattr("wukong_jax.cli.main.load_command", lambda name: Command(action, workdir))
    with pytest.raises(SystemExit) as ended:
        main("calls", [])
    err = capsys.readouterr().err
    assert err.count("\n") <= 1, err
    return ended.value.code, err


def raising(error):
    def action():
        raise error

    return action


def run_script(name, *flags, **environment):
    command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | environment
    return subprocess.run(command, capture_output=True, env=environment, timeout=300)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "error: .*: No space left on device; free space, then"),
        (MemoryError("Unable to allocate 3 TiB"), r"error: not enough memory \(Unable to allocate 3 TiB\); lower"),
        (
            JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes.\nallocator dump"),
            r"error: not enough memory on the device \(Out of memory allocating 99 bytes.\); lower config.training",
        ),
        (
            JaxRuntimeError("UNKNOWN: Gloo context initialization failed: Connection refused, remote=[127.0.1.1]:1"),
            r"error: the processes do not reach each other \(.*127.0.1.1.*\); on CPUs the name of each host must",
        ),
        (UnicodeDecodeError("utf-8", b"\xe7", 0, 1, "bad"), "error: a text file is not UTF-8"),
        (UnicodeEncodeError("ascii", "\u70b9", 0, 1, "bad"), r"error: '\\u70b9': the locale cannot write"),
    ],
)
def test_a_failure_of_the_machine_is_one_line_with_a_fix(monkeypatch, capsys, tmp_path, error, line):
    code, err = end_of(monkeypatch, capsys, raising(error), tmp_path)
    assert code == 1
    assert re.match(line, err)
    assert not (tmp_path / "error.txt").exists()


@pytest.mark.parametrize("error", [ValueError("a\ndefect"), AssertionError(), pl.exceptions.PanicException("a panic")])
def test_a_defect_leaves_its_traceback_in_the_runs_folder(monkeypatch, capsys, tmp_path, error):
    code, err = end_of(monkeypatch, capsys, raising(error), tmp_path)
    assert code == 1
    assert str(tmp_path / "error.txt") in err
    assert err.startswith(f"error: {type(error).__name__}")
    text = (tmp_path / "error.txt").read_text(encoding="utf-8")
    assert "in action" in text


def test_a_defect_without_a_run_leaves_its_traceback_in_a_temporary_file(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, err = end_of(monkeypatch, capsys, raising(KeyError("widths")), tmp_path / "not_made")
    (file,) = tmp_path.glob("*-error.txt")
    assert code == 1
    assert str(file) in err
    assert "KeyError: 'widths'" in file.read_text(encoding="utf-8")


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("wrapped", [None, ValueError, UserError, ImportError])
def test_a_signal_ends_a_command_in_order(monkeypatch, capsys, tmp_path, number, code, wrapped):
    def action():
        file = tmp_path / "half"
        file.touch()
        try:
            signal.raise_signal(number)
        except (KeyboardInterrupt, SystemExit):
            if wrapped is not None:  # as libraries do that catch everything
                raise wrapped("initialization failed") from None
            raise
        finally:
            file.unlink()

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    assert end_of(monkeypatch, capsys, action, tmp_path) == (code, "")
    assert list(tmp_path.iterdir()) == []
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.usefixtures("interruptible")
def test_a_signal_that_a_destructor_swallows_is_sent_again(monkeypatch, capsys):
    class Swallows:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def action():
        Swallows()
        signal.sigtimedwait([], 10)  # is interrupted by the second signal

    assert end_of(monkeypatch, capsys, action) == (130, "")


def test_what_storage_threads_print_after_a_failure_is_dropped(monkeypatch, capsys):
    class Late:
        def __del__(self):  # as tensorstore's threads report, past any handler
            raise RuntimeError("Event loop is closed")

    def action():
        Late()
        raise UserError("checkpoints/best: is damaged")

    assert end_of(monkeypatch, capsys, action) == (1, "error: checkpoints/best: is damaged\n")


@pytest.mark.parametrize(
    ("platforms", "words"),
    [
        ("cuda", "has no cuda backend here.*install the extra \\(pip install 'wukong-jax\\[cuda12\\]'\\) or unset"),
        ("nonsense", "has no nonsense backend here \\(Backend .*; unset JAX_PLATFORMS"),
    ],
)
def test_a_backend_that_is_missing_is_one_line_before_anything_is_written(tmp_path, platforms, words):
    flags = ("--config=quickstart:logistic_regression", f"--workdir={tmp_path / 'run'}")
    done = run_script("train", *flags, JAX_PLATFORMS=platforms)
    err = done.stderr.decode()
    assert (done.returncode, err.count("\n")) == (1, 1), err
    assert re.search(words, err)
    assert not (tmp_path / "run").exists()


def write_chinese(tmp_path):
    schema = {
        "name": "\u70b9\u51fb",
        "source": {"format": "csv"},
        "labels": [{"name": "\u70b9\u51fb"}],
        "categorical": [{"name": "\u57ce\u5e02"}],
    }
    (tmp_path / "schema.json").write_text(json.dumps(schema, ensure_ascii=False), encoding="utf-8")
    rows = [f"{i % 2},\u5317\u4eac{i % 5}\n" for i in range(60)]
    (tmp_path / "rows.csv").write_text("\u70b9\u51fb,\u57ce\u5e02\n" + "".join(rows), encoding="utf-8")
    return f"--schema={tmp_path / 'schema.json'}", f"--input={tmp_path / 'rows.csv'}"


def test_text_is_utf8_in_any_locale(tmp_path):
    done = run_script("prepare_data", *write_chinese(tmp_path), f"--output={tmp_path / 'out'}", **C_LOCALE)
    assert done.returncode == 0, done.stderr
    assert "\u5317\u4eac" in pl.read_parquet(next((tmp_path / "out" / "vocabulary").iterdir()))["value"][0]


def test_a_name_that_the_locale_cannot_write_is_refused_in_one_line(tmp_path):
    schema, _ = write_chinese(tmp_path)
    done = run_script("prepare_data", schema, "--input=\u4e2d.csv", f"--output={tmp_path / 'out'}", **C_LOCALE)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"set PYTHONUTF8=1" in done.stderr
    done = run_script("train", "--config=\u4e2d", f"--workdir={tmp_path / 'run'}", PYTHONUTF8="1")
    assert "\u4e2d" in done.stderr.decode("utf-8")


def test_a_schema_that_is_not_utf8_is_refused_in_one_line(tmp_path):
    (tmp_path / "schema.json").write_bytes(b'{"name": "caf\xe9"}')
    with pytest.raises(SystemExit) as ended:
        main("prepare_data", [f"--schema={tmp_path / 'schema.json'}", "--input=a.csv", f"--output={tmp_path / 'out'}"])
    assert ended.value.code == 1

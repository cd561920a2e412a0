"""Runs all commands: the entry point of `wukong-jax NAME ...`, `python -m wukong_jax` and scripts/NAME.py.

Exit codes: 0 done, 1 failed, 2 bad usage, 143 after SIGTERM, 130 after SIGINT (after both, training has saved its
state). Whatever ends a command is reported in one line on stderr; the traceback of a defect is written to a file.
Output is UTF-8 whatever the locale.
"""

import io
import logging
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from absl import logging as absl_logging

from wukong_jax.cli.commands import describe_commands, load_command
from wukong_jax.cli.failures import describe_failure, on_one_line
from wukong_jax.cli.orderly_signals import OrderlySignals
from wukong_jax.cli.parser import UsageError, parse_settings
from wukong_jax.cli.settings import ProgramFlags
from wukong_jax.errors import UserError
from wukong_jax.sharding.host_allocator import keep_freed_memory
from wukong_jax.sharding.team import find_team

FAILED, BAD_USAGE, INTERRUPTED = 1, 2, 130


def main(name: str = "", arguments: Sequence[str] | None = None) -> None:
    """Runs a command.

    Args:
      name: name of the command; if empty, the first argument.
      arguments: arguments of the command; None: those of the process.

    Raises:
      SystemExit: with the exit code if it is not 0.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    settings = None
    _write_utf8()
    with OrderlySignals() as signals:
        try:
            if not name and words and words[0] in ("-h", "--help"):
                print(describe_commands())
                return
            if not name and not words:
                raise UsageError("no command given")
            _check_encoding(words)
            command = load_command(name or words.pop(0))
            settings = parse_settings(
                command.Settings, words, command.__name__.rpartition(".")[2], command.__doc__ or ""
            )
            quieten_libraries()
            keep_freed_memory()
            if isinstance(settings, ProgramFlags):
                from wukong_jax.training.compiled_programs import keep_programs_between_starts

                keep_programs_between_starts(settings.compiled_programs)
            command.run(settings)
            find_team().leave()
        except BrokenPipeError:
            _exit(FAILED, "error: the reader of the output is gone")
        except KeyboardInterrupt:
            _exit(INTERRUPTED, "interrupted")
        except SystemExit as ended:
            if find_team().ends_together:
                find_team().leave()
            _exit(ended.code, f"interrupted (exit code {ended.code})")
        except GeneratorExit:
            raise
        except BaseException as error:  # a panic of polars is no Exception
            if signals.exit_code is not None:  # a library turned the interruption into another exception
                _exit(signals.exit_code, f"interrupted (exit code {signals.exit_code})")
            _report(error, settings)


def _report(error: BaseException, settings: Any) -> NoReturn:
    """Prints what ended a command in one line and exits."""
    find_team().await_cause(error)
    if isinstance(error, UsageError):
        line, code = f"usage error: {error}; see --help", BAD_USAGE
    elif isinstance(error, UserError):
        line, code = f"error: {error}", FAILED
    else:
        line, code = f"error: {describe_failure(error, settings)}", FAILED
    if find_team().count > 1:
        find_team().fail(on_one_line(line), code)
    print(on_one_line(line), file=sys.stderr)
    sys.exit(code)


def _exit(code: Any, line: str) -> NoReturn:
    """Exits; the other processes of a team read the line, because they would wait for this one."""
    if find_team().count > 1:
        find_team().fail(line, code if isinstance(code, int) else FAILED)
    sys.exit(code)


def quieten_libraries() -> None:
    """Hides log messages of libraries, such as Orbax's progress; it also logs each error that it raises."""
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("orbax").setLevel(logging.CRITICAL)


def _write_utf8() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not in a notebook or under a test's capture
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def _check_encoding(words: Sequence[str]) -> None:
    """Refuses arguments that are not text: a locale other than UTF-8 leaves non-ASCII names as single bytes."""
    for word in words:
        if any("\ud800" <= letter <= "\udfff" for letter in word):
            raise UsageError(
                f"argument {word!a}: is not UTF-8, or the locale is not; set PYTHONUTF8=1 or a UTF-8 locale, or "
                "rename the file"
            )

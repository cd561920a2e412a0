"""Runs all commands: the entry point of `wukong-jax NAME ...`, `python -m wukong_jax` and scripts/NAME.py.

Exit codes: 0 done, 1 failed, 2 bad usage, 143 after SIGTERM, 130 after SIGINT (after both, training has saved its
state). Whatever ends a command is reported in one line on stderr; the traceback of a defect is written to a file.
Output is UTF-8 whatever the locale.
"""

import io
import logging
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

from absl import logging as absl_logging

from wukong_jax.cli.commands import describe_commands, load_command
from wukong_jax.cli.failures import describe_failure, on_one_line
from wukong_jax.cli.parser import UsageError, parse_settings
from wukong_jax.errors import UserError
from wukong_jax.sharding.host_allocator import keep_freed_memory

FAILED, BAD_USAGE, INTERRUPTED, TERMINATED = 1, 2, 130, 143


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
    with _Signals() as signals:
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
            command.run(settings)
        except UsageError as error:
            _fail(f"usage error: {error}; see --help", BAD_USAGE)
        except UserError as error:
            _fail(f"error: {error}", FAILED)
        except BrokenPipeError:
            sys.exit(FAILED)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except (SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # a panic of polars is no Exception
            if signals.interrupted:  # a library wrapped the interruption
                sys.exit(INTERRUPTED)
            _fail(f"error: {describe_failure(error, settings)}", FAILED)


def quieten_libraries() -> None:
    """Hides log messages of libraries, such as Orbax's progress; it also logs each error that it raises."""
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("orbax").setLevel(logging.CRITICAL)


class _Signals:
    """A context that ends the process in order on SIGTERM, so that temporary folders are removed, and notes a SIGINT.

    Other threads than the main one, and programs that handle the signals themselves, are left alone.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "_Signals":
        if threading.current_thread() is threading.main_thread():
            if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
                self._previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, _terminate)
            if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
                self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = True
        raise KeyboardInterrupt


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(TERMINATED)


def _write_utf8() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not in a notebook or under a test's capture
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def _check_encoding(words: Sequence[str]) -> None:
    """Refuses arguments that are not text: a locale other than UTF-8 leaves non-ASCII names as single bytes."""
    for word in words:
        if any("\ud800" <= letter <= "\udfff" for letter in word):
            raise UsageError(
                f"argument {ascii(word)}: is not UTF-8, or the locale is not; set PYTHONUTF8=1 or a UTF-8 locale, or "
                "rename the file"
            )


def _fail(line: str, code: int) -> NoReturn:
    print(on_one_line(line), file=sys.stderr)
    sys.exit(code)

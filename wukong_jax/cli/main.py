"""Runs all commands: the entry point of `wukong-jax NAME ...`, `python -m wukong_jax` and scripts/NAME.py.

Exit codes: 0 done, 1 failed, 2 bad usage, 143 after SIGTERM, 130 after SIGINT (after both, training has saved its
state). A mistake of the user is reported in one line on stderr, without a traceback.
"""

import logging
import sys
from collections.abc import Sequence
from typing import NoReturn

from absl import logging as absl_logging

from wukong_jax.cli.commands import describe_commands, load_command
from wukong_jax.cli.parser import UsageError, parse_settings
from wukong_jax.errors import UserError
from wukong_jax.sharding.host_allocator import keep_freed_memory

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
    try:
        if not name and words and words[0] in ("-h", "--help"):
            print(describe_commands())
            return
        if not name and not words:
            raise UsageError("no command given")
        command = load_command(name or words.pop(0))
        settings = parse_settings(command.Settings, words, command.__name__.rpartition(".")[2], command.__doc__ or "")
        quieten_libraries()
        keep_freed_memory()
        command.run(settings)
    except UsageError as error:
        _fail(f"usage error: {error}; see --help", BAD_USAGE)
    except UserError as error:
        _fail(f"error: {error}", FAILED)
    except BrokenPipeError:
        sys.exit(FAILED)
    except OSError as error:
        # A full disk, permissions or a missing file: the system's message describes it.
        reason = error.strerror or " ".join(str(error).split())
        _fail(f"error: {error.filename or 'the system'}: {reason}", FAILED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def quieten_libraries() -> None:
    """Hides log messages of libraries, such as Orbax's progress, except errors."""
    absl_logging.set_verbosity(absl_logging.ERROR)
    logging.getLogger("orbax").setLevel(logging.ERROR)


def _fail(line: str, code: int) -> NoReturn:
    print(line, file=sys.stderr)
    sys.exit(code)

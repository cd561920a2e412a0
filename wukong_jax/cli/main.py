"""The entry point of all commands: `wukong-jax NAME ...`, which scripts/NAME.py and `python -m wukong_jax` call, too.

Exit codes: 0 done, 1 failed, 2 bad usage, 143 saved on SIGTERM, 130 on SIGINT (saved, if it was training). A user's
mistake is one line on stderr, with no traceback.
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
      name: the command's; empty: the first of the arguments.
      arguments: None: the process's own.

    Raises:
      SystemExit: with the exit code, where it is not 0.
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
        # Disk full, permissions, a file gone: the system's own words name it.
        reason = error.strerror or " ".join(str(error).split())
        _fail(f"error: {error.filename or 'the system'}: {reason}", FAILED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def quieten_libraries() -> None:
    """Hides the libraries' progress notes; their warnings and errors stay."""
    absl_logging.set_verbosity(absl_logging.ERROR)
    logging.getLogger("orbax").setLevel(logging.ERROR)


def _fail(line: str, code: int) -> NoReturn:
    print(line, file=sys.stderr)
    sys.exit(code)

"""What every script shares: flags, exit codes and one-line errors.

Exit codes: 0 done, 1 failed, 2 bad usage, 143 saved on SIGTERM, 130 on SIGINT (saved, if it was training).
"""

import logging
import re
import sys
from collections.abc import Callable, Sequence

from absl import flags
from ml_collections import ConfigDict

from wukong_jax.config import RunConfig, build_run_config
from wukong_jax.config_files import load_config
from wukong_jax.config_overrides import apply_flags
from wukong_jax.errors import UserError
from wukong_jax.sharding.host_allocator import keep_freed_memory

BAD_USAGE, INTERRUPTED = 2, 130


def run_script(main: Callable[[], None]) -> None:
    """Runs a script's main; a user's mistake becomes `error: ...` on stderr and exit code 1, with no traceback."""
    quieten_libraries()
    keep_freed_memory()
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        # Disk full, permissions, a file gone: the system's own words name it.
        print(f"error: {error.filename or 'the system'}: {error.strerror or _one_line(error)}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def quieten_libraries() -> None:
    """Hides the libraries' progress notes; their warnings and errors stay."""
    from absl import logging as absl_logging

    absl_logging.set_verbosity(absl_logging.ERROR)
    logging.getLogger("orbax").setLevel(logging.ERROR)


def parse_config_flags(arguments: Sequence[str], description: str) -> tuple[RunConfig, str]:
    """Parses `--config=FILE --workdir=FOLDER [--config.key=value]`.

    Args:
      arguments: the command line, the script's name first.
      description: what `--help` prints above the flags.

    Returns:
      (the checked config, workdir).

    Raises:
      SystemExit: 0 after `--help`, 2 for flags that cannot be parsed.
      UserError: a config that cannot be read or holds a bad value.
    """
    config, workdir = parse_config_dict_flags(arguments, description)
    return build_run_config(config), workdir


def parse_config_dict_flags(arguments: Sequence[str], description: str) -> tuple[ConfigDict, str]:
    """As `parse_config_flags`, with the config as its file made it, overrides applied."""
    return _parse_config_flags(arguments, description)


def take_flag(arguments: list[str], name: str, default: str | None = None) -> str:
    """Removes `--name=value` from the arguments and returns the value.

    Raises:
      SystemExit: 2 where the flag is missing and has no default; with `--help` among the arguments it may miss.
    """
    for argument in arguments:
        if argument.startswith(f"--{name}="):
            arguments.remove(argument)
            return argument.partition("=")[2]
    if default is not None:
        return default
    if any(argument in ("--help", "-h") for argument in arguments):
        return ""
    print(f"usage error: --{name} is missing; see --help", file=sys.stderr)
    sys.exit(BAD_USAGE)


def _parse_config_flags(arguments: Sequence[str], description: str) -> tuple[ConfigDict, str]:
    values = flags.FlagValues()
    flags.DEFINE_string("config", None, "A config file or a shipped config, NAME[:variant].", flag_values=values)
    flags.DEFINE_string("workdir", None, "The run's folder; made if missing, continued if not.", flag_values=values)
    if any(argument in ("--help", "-help", "-h") for argument in arguments[1:]):
        print(f"{description.strip()}\n\nflags:\n{values.get_help()}")
        sys.exit(0)
    overrides = [argument for argument in arguments if re.match(r"--?(no)?config\.", argument)]
    try:
        rest = values([argument for argument in arguments if argument not in overrides])
        if rest[1:]:
            raise flags.Error(f"unexpected argument {rest[1]!r}; flags look like --config=FILE --workdir=FOLDER")
        for flag in ("config", "workdir"):
            if values[flag].value is None:
                raise flags.Error(f"--{flag} is missing")
        return apply_flags(load_config(str(values["config"].value)), overrides), str(values["workdir"].value)
    except flags.Error as error:
        print(f"usage error: {_one_line(error)}; see --help", file=sys.stderr)
        sys.exit(BAD_USAGE)


def _one_line(error: object) -> str:
    """The message in one line; of a traceback inside it, its last line."""
    text = str(error)
    if "Traceback (most recent call last)" in text:
        text = text[: text.index("Traceback")] + text.strip().splitlines()[-1]
    return " ".join(text.replace("\\n", " ").replace("\\'", "'").split())

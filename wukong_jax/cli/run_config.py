"""The run config that a command line names: its file found, its changes applied, its values checked."""

import contextlib
import sys
from collections.abc import Iterator, Sequence

from absl import flags
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from wukong_jax.cli.parser import UsageError
from wukong_jax.cli.settings import ConfigFlags
from wukong_jax.config import RunConfig, build_run_config
from wukong_jax.errors import UserError


def build_config(given: ConfigFlags, variant: str = "") -> RunConfig:
    """The checked config of a command line.

    Args:
      given: the command's flags.
      variant: of the config, where `--config` names none.

    Raises:
      UserError: a config that cannot be read, or a bad value in it.
    """
    return build_run_config(load_config_dict(given, variant))


def load_config_dict(given: ConfigFlags, variant: str = "") -> ConfigDict:
    """As `build_config`, not checked: what the config's file returned, with the changes."""
    return load_run_config(f"{given.config}:{variant}" if variant else given.config, given.changes)


def load_run_config(config: str, changes: Sequence[str] = ()) -> ConfigDict:
    """Runs a config's file and applies changes to its keys.

    Args:
      config: "FILE" or "FILE:variant".
      changes: "key=value" texts; values are read as the types that the keys have.

    Raises:
      UsageError: a value of a wrong type.
      UserError: a file that cannot be read, or an unknown key.
    """
    values = flags.FlagValues()
    held = config_flags.DEFINE_config_file("config", None, "", flag_values=values)
    arguments = ["", f"--config={config}", *(f"--config.{change}" for change in changes)]
    try:
        with _as_process_arguments(arguments):
            values(arguments)
    except flags.Error as error:
        raise UsageError(_one_line(error)) from error
    except (AttributeError, KeyError, TypeError, ValueError, OSError, SyntaxError, ImportError) as error:
        raise UserError(f"--config: {type(error).__name__}: {_one_line(error)}") from error
    if not isinstance(held.value, ConfigDict):
        reason = getattr(held.value, "_error", "it returned no ConfigDict")
        raise UserError(f"--config: cannot be read ({_one_line(reason)}); give a Python file with get_config()")
    return held.value


@contextlib.contextmanager
def _as_process_arguments(arguments: list[str]) -> Iterator[None]:
    """Puts arguments in `sys.argv`, where ml_collections looks for the changes, whatever it is given to parse."""
    before, sys.argv = sys.argv, arguments
    try:
        yield
    finally:
        sys.argv = before


def _one_line(error: object) -> str:
    """The message in one line; of a traceback inside it, its last line."""
    text = str(error)
    if "Traceback (most recent call last)" in text:
        text = text[: text.index("Traceback")] + text.strip().splitlines()[-1]
    return " ".join(text.replace("\\n", " ").replace("\\'", "'").split())

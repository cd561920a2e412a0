"""The run config that a command line names: its file found, its changes applied, its values checked."""

from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict

from wukong_jax.cli.parser import UsageError
from wukong_jax.cli.settings import ConfigFlags
from wukong_jax.config import RunConfig, build_run_config
from wukong_jax.config_files import load_config
from wukong_jax.config_overrides import apply_flags


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
    try:
        return apply_flags(load_config(config), [f"--config.{change}" for change in changes])
    except flags.Error as error:
        raise UsageError(" ".join(str(error).split())) from error

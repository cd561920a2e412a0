"""Loads the run config named on a command line, applies changes and checks values."""

from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict

from wukong_jax.cli.parser import UsageError
from wukong_jax.cli.settings import ConfigFlags
from wukong_jax.config import RunConfig, build_run_config
from wukong_jax.config_files import load_config
from wukong_jax.config_overrides import apply_flags


def build_config(given: ConfigFlags, variant: str = "") -> RunConfig:
    """Builds the checked config of a command line.

    Args:
      given: flags of the command.
      variant: variant of the config, if `--config` names none.

    Raises:
      UserError: the config cannot be read, or has a wrong value.
    """
    return build_run_config(load_config_dict(given, variant))


def load_config_dict(given: ConfigFlags, variant: str = "") -> ConfigDict:
    """Loads the config like `build_config`, but without checking values."""
    return load_run_config(f"{given.config}:{variant}" if variant else given.config, given.changes)


def load_run_config(config: str, changes: Sequence[str] = ()) -> ConfigDict:
    """Runs a config file and applies changes to its keys.

    Args:
      config: "FILE" or "FILE:variant".
      changes: "key=value" texts; values are parsed by the types of the keys.

    Raises:
      UsageError: a value has the wrong type.
      UserError: the file cannot be read, or a key is unknown.
    """
    try:
        return apply_flags(load_config(config), [f"--config.{change}" for change in changes])
    except flags.Error as error:
        raise UsageError(" ".join(str(error).split())) from error

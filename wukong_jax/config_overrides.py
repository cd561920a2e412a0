"""Overrides keys of a config, from Python and from the command line."""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from wukong_jax.config_upgrade import upgrade_key
from wukong_jax.errors import UserError


def override_keys(config: ConfigDict, overrides: Mapping[str, Any]) -> ConfigDict:
    """Sets existing keys of a config to values of the same type.

    Args:
      config: the config, changed in place.
      overrides: new values by dotted key.

    Returns:
      The config.

    Raises:
      UserError: a key is unknown, or a value has the wrong type.
    """
    for key, value in overrides.items():
        key = _rename(config, key)
        holder, last = _find_holder(config, key, value)
        try:
            holder[last] = tuple(value) if isinstance(value, list) and isinstance(holder[last], tuple) else value
        except TypeError:
            expected = holder.get_type(last).__name__
            raise UserError(f"config.{key} = {value!r}: expected {expected}, got {type(value).__name__}") from None
    return config


def apply_flags(config: ConfigDict, arguments: Sequence[str]) -> ConfigDict:
    """Sets keys by flags such as `--config.training.steps=100`, whose values are parsed by the type of the key.

    Args:
      config: result of `load_config`, changed in place and locked against new keys.
      arguments: the flags.

    Returns:
      The config.

    Raises:
      UserError: a key is unknown.
      absl.flags.Error: a value cannot be parsed as the type of its key.
    """
    renamed = ["flags"]
    for argument in arguments:
        match = re.fullmatch(r"(--?(?:no)?config\.)([^=]+)(.*)", argument, re.DOTALL)
        if match:
            key = _rename(config, match[2])
            if "[" not in key:  # ml_collections resolves indices of lists itself
                _find_holder(config, key, match[3].removeprefix("="))
            argument = match[1] + key + match[3]
        renamed.append(argument)
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=renamed)
        rest = values(renamed)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"--config: {type(error).__name__}: {_one_line(error)}") from error
    if rest[1:]:
        raise flags.Error(f"unexpected argument {rest[1]!r}; overrides look like --config.training.steps=100")
    return config


def _rename(config: ConfigDict, key: str) -> str:
    """Returns the current name of a key; if it has become an option, also adds the option with its former default."""
    prefix = "run." if key.startswith("run.") else ""
    name, default = upgrade_key(key.removeprefix(prefix))
    if default is not None:
        section, _, option = name.split(".")
        options = (config.run if prefix else config)[section].options
        if option not in options:
            options[option] = default
    return prefix + name


def _find_holder(config: ConfigDict, key: str, value: Any) -> tuple[ConfigDict, str]:
    """Returns the mapping that contains a dotted key, and the last part of the key.

    Raises:
      UserError: there is no such key.
    """
    holder: Any = config
    *path, last = key.split(".")
    for position, name in enumerate((*path, last)):
        if not isinstance(holder, ConfigDict) or name not in holder:
            known = list(holder) if isinstance(holder, ConfigDict) else []
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known there: {', '.join(known) or 'nothing'}"
            raise UserError(f"config.{key} = {value!r}: unknown key {name!r}; {hint}")
        if position < len(path):
            holder = holder[name]
    return holder, last


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())

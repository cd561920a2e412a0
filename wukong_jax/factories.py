"""The one shape of everything a config chooses: a factory's name, and options for that factory.

Model, loss, exchange, join, optimizer and data source are all named in this way, so each can come from any package.

A factory's module may also offer *companions*: functions of fixed names that serve the same part. There is one,
`resolve_options(options)` beside a model's factory: it replaces names of files in the options by their contents.
"""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from wukong_jax.errors import UserError

# Factories that have moved; configs and run folders written before still hold the old names.
MOVED = {"lattice.knowledge_transfer:build_join": "lattice.teacher.knowledge_transfer:build_join"}
_NO_SHORT_NAMES: Mapping[str, str] = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a run: the factory that builds it, and the factory's options, which the factory checks."""

    factory: str = ""  # "module:function", or the short name of a built-in one where there are such; "": no part
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses options of nothing."""
        if self.options and not self.factory:
            raise UserError("factory = '': there are options but no factory; name it, or leave the options out")

    def build(self, key: str, *inputs: Any, short_names: Mapping[str, str] = _NO_SHORT_NAMES) -> Any:
        """Calls the factory with the options and what else its kind is given.

        Args:
          key: where the part stands in the config, as `config.loss`.
          inputs: of the factory, after the options.
          short_names: of built-in factories, with their full names.

        Raises:
          UserError: the factory cannot be imported, or refuses an option.
        """
        return load_factory(f"{key}.factory", self.factory, short_names)(self.options, *inputs)


def load_factory(key: str, name: str, short_names: Mapping[str, str] = _NO_SHORT_NAMES) -> Any:
    """Imports a factory by its name, "module:function", or a built-in one by its short name.

    Raises:
      UserError: it cannot be imported; the message starts with `key`.
    """
    full_name = short_names.get(name) or MOVED.get(name, name)
    module_name, _, function_name = full_name.partition(":")
    try:
        return getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        names = [*map(repr, short_names), "'module:function', such as 'wukong_jax.models.wukong:build'"]
        raise UserError(f"{key} = {name!r}: {error}; give {' or '.join(names)}") from None


def find_companion(key: str, name: str, companion: str) -> Callable[..., Any] | None:
    """Finds a function in the module of a factory.

    Args:
      key: of the config, where the factory is named.
      name: the factory, "module:function".
      companion: the function's name.

    Returns:
      The function; None where the module that `name` names has none.

    Raises:
      UserError: the factory cannot be imported; the message starts with `key`.
    """
    load_factory(key, name)
    return getattr(importlib.import_module(MOVED.get(name, name).partition(":")[0]), companion, None)

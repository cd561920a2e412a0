"""Defines how a config names a part of a run: by a factory, "module:function", and its options.

Model, loss, exchange, join, optimizer and data source are named in this way, so each can come from any package.

The module of a factory may also have *companions*, functions with fixed names for the same part. The only one so far is
`resolve_options(options)` for models, which replaces file names in the options by the files' contents.
"""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from wukong_jax.errors import UserError

# Renamed factories, whose old names are still in earlier configs and run folders.
MOVED = {"lattice.knowledge_transfer:build_join": "lattice.teacher.knowledge_transfer:build_join"}
_NO_SHORT_NAMES: Mapping[str, str] = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a run: the factory that builds it, and the factory's options, which the factory checks."""

    factory: str = ""  # "module:function", or the short name of a built-in factory; "": no part
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Rejects options without a factory."""
        if self.options and not self.factory:
            raise UserError("factory = '': there are options but no factory; name it, or leave the options out")

    def build(self, key: str, *inputs: Any, short_names: Mapping[str, str] = _NO_SHORT_NAMES) -> Any:
        """Calls the factory with the options and further inputs.

        Args:
          key: key of the part in the config, such as `config.loss`.
          inputs: arguments of the factory after the options.
          short_names: full names of built-in factories by short name.

        Raises:
          UserError: the factory cannot be imported, or rejects an option.
        """
        return load_factory(f"{key}.factory", self.factory, short_names)(self.options, *inputs)


def load_factory(key: str, name: str, short_names: Mapping[str, str] = _NO_SHORT_NAMES) -> Any:
    """Imports a factory by its name "module:function", or a built-in one by its short name.

    Raises:
      UserError: the factory cannot be imported; the message starts with `key`.
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
      key: key of the config that names the factory.
      name: the factory, "module:function".
      companion: name of the function.

    Returns:
      The function, or None if the factory's module has none of this name.

    Raises:
      UserError: the factory cannot be imported; the message starts with `key`.
    """
    load_factory(key, name)
    return getattr(importlib.import_module(MOVED.get(name, name).partition(":")[0]), companion, None)

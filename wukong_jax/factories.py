"""Parts that a config names by their factory, "module:function".

Beside its factory, a module may offer *companions*: functions of fixed names that serve the same part. There is one:
`resolve_options(options)` beside a model's factory, which puts the contents of files that the options name in their
place.
"""

import importlib
from collections.abc import Callable
from typing import Any

from wukong_jax.errors import UserError


def load_factory(key: str, name: str) -> Any:
    """Imports a factory by its name, "module:function".

    Raises:
      UserError: it cannot be imported; the message starts with `key`.
    """
    module_name, _, function_name = name.partition(":")
    try:
        return getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        fix = "give 'module:function', such as 'wukong_jax.models.wukong:build'"
        raise UserError(f"{key} = {name!r}: {error}; {fix}") from None


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
    return getattr(importlib.import_module(name.partition(":")[0]), companion, None)

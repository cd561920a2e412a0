"""Parts that a config names by their factory, "module:function"."""

import importlib
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

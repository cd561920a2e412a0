"""Defines how a config names a part of a run: by a factory, "module:function", and its options.

Model, loss, exchange, join, optimizer and data source are named in this way, so each can come from any package.

A config that the user gives may name any module: it is the user's own code. A config found in a run's folder may come
from anyone, so while a run is opened (`known_factories_only`), only factories of this project's packages and of Optax
are run, those of packages that the user allows, and those that a config of the user has named in this process.

The module of a factory may also have *companions*, functions with fixed names for the same part. The only one so far is
`resolve_options(options)` for models, which replaces file names in the options by the files' contents.
"""

import contextlib
import contextvars
import dataclasses
import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from wukong_jax.errors import UserError
from wukong_jax.user_code import describe_mistake

# Renamed factories, whose old names are still in earlier configs and run folders.
MOVED = {"lattice.knowledge_transfer:build_join": "lattice.teacher.knowledge_transfer:build_join"}
_NO_SHORT_NAMES: Mapping[str, str] = MappingProxyType({})
_OWN = frozenset({"wukong_jax", "dmt", "lattice"})
_PACKAGES = _OWN | {"optax"}
_SHOWN = 200  # characters of a name in a message
# Packages whose factories may be loaded; None: any, because the user gave the config.
_allowed: contextvars.ContextVar[frozenset[str] | None] = contextvars.ContextVar("packages of factories", default=None)
_given: set[str] = set()  # factories that the user's configs have named in this process


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
          UserError: the factory cannot be imported, or rejects an option; or one of another package has a mistake.
        """
        factory = load_factory(f"{key}.factory", self.factory, short_names)
        if _is_within(str(getattr(factory, "__module__", "")), _OWN):
            return factory(self.options, *inputs)
        try:
            return factory(self.options, *inputs)
        except UserError:
            raise
        except Exception as error:
            mistake = describe_mistake(error, self.factory)
            raise UserError(f"{key}.factory = {self.factory!r}: {mistake}; mend it, or {key}.options") from error


def load_factory(key: str, name: str, short_names: Mapping[str, str] = _NO_SHORT_NAMES) -> Any:
    """Imports a factory by its name "module:function", or a built-in one by its short name.

    Raises:
      UserError: the factory cannot be imported; the message starts with `key`.
    """
    full_name = short_names.get(name) or MOVED.get(name, name)
    module_name, _, function_name = full_name.partition(":")
    packages = None if full_name in _given else _allowed.get()
    check_factory_name(key, name, short_names)
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        names = [*map(repr, short_names), "'module:function', such as 'wukong_jax.models.wukong:build'"]
        raise UserError(f"{key} = {_shorten(name)}: {str(error)[:300]}; give {' or '.join(names)}") from None
    if packages is None:
        _given.add(full_name)
    elif not callable(function) or not _is_within(str(getattr(function, "__module__", "")), packages):
        raise UserError(
            f"{key} = {_shorten(name)}: is not a function of that package; a run's folder may name no other"
        )
    return function


@contextlib.contextmanager
def known_factories_only(allow: Iterable[str] = ()) -> Iterator[None]:
    """Refuses, within the context, factories of unknown packages, for configs that were found and not given.

    Args:
      allow: further packages or modules, with all their submodules. A context inside another adds to its packages.

    Raises:
      UserError: a name in `allow` is not that of a module.
    """
    for name in (allow := tuple(allow)):
        if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name):
            raise UserError(f"--allow_factories = {name!r}: not the name of a package, such as my_package")
    token = _allowed.set((_allowed.get() or _PACKAGES) | frozenset(allow))
    try:
        yield
    finally:
        _allowed.reset(token)


def check_factory_name(key: str, name: str, short_names: Mapping[str, str] = _NO_SHORT_NAMES) -> None:
    """Checks, within `known_factories_only`, that a factory may be loaded, without importing its module.

    Raises:
      UserError: it is of an unknown package, or no factory; the message starts with `key`.
    """
    full_name, packages = short_names.get(name) or MOVED.get(name, name), _allowed.get()
    if packages is None or not name or full_name in _given:
        return
    module, _, function = full_name.partition(":")
    if not _is_within(module, packages):
        package = module.partition(".")[0][:_SHOWN]
        raise UserError(
            f"{key} = {_shorten(name)}: the run's folder names code of another package, which is not run unasked; if "
            f"you trust it, give --allow_factories={package} (in Python, open_run(..., allow_factories=[{package!r}]))"
        )
    if _is_within(module, _OWN) and not re.fullmatch(r"build(_\w+)?", function):
        raise UserError(f"{key} = {_shorten(name)}: is no factory; those of this package are called build or build_...")


def _shorten(name: str) -> str:
    return repr(name) if len(name) <= _SHOWN else repr(name[:_SHOWN]) + "..."


def _is_within(module: str, packages: frozenset[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


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

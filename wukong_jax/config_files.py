"""Finds config files by path or by the name of a shipped config, and runs them.

A config file is a Python file with a function `get_config()` or `get_config(variant)` that returns a ConfigDict.
Shipped configs are in `configs/` of a checkout, which an installed package contains as `wukong_jax.configs`.
"""

import contextlib
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from wukong_jax.config_overrides import override_keys
from wukong_jax.config_upgrade import upgrade_config
from wukong_jax.errors import UserError
from wukong_jax.user_code import describe_mistake

_SHIPPED = "wukong_jax.configs"
# Configs whose file was renamed when it moved into a folder; commands of kept results name them.
_RENAMED = {"criteo_dmt": "dmt/criteo", "sketch_lattice": "lattice/sketch"}


def load_config(name: str, overrides: Mapping[str, Any] | None = None) -> ConfigDict:
    """Loads a config.

        config = load_config("quickstart", {"training.steps": 100})

    Args:
      name: a Python file, or a shipped config such as "public/frappe_wukong", whose folder may be omitted if the name
        is unique. If the file has variants, append a colon and a variant, as in "quickstart:logistic_regression".
      overrides: new values of existing keys, by dotted key.

    Returns:
      The config, for `train(config, workdir)`; its keys may be changed before.

    Raises:
      UserError: there is no such config, the file raises an exception, or an override has an unknown key or wrong type.
    """
    file, colon, variant = name.partition(":")
    path, module = _import_config(file)
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise UserError(f"{path}: has no get_config(); write one that returns a config")
    arguments = (variant,) if colon else ()
    try:
        inspect.signature(get_config).bind(*arguments)
    except TypeError:
        fix = f"takes no variant; leave ':{variant}' out" if colon else "needs a variant; give one after a colon"
        raise UserError(f"config = {name!r}: get_config() {fix}") from None
    with _naming_the_line(path):
        try:
            config = get_config(*arguments)
        except UserError as error:
            raise UserError(f"config = {name!r}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: get_config() returned {type(config).__name__}; return one made by start_config()")
    for run in (config, config.get("run")):  # the config of a sweep contains that of its runs
        if isinstance(run, ConfigDict):
            upgrade_config(run)
    return override_keys(config, overrides or {})


def list_shipped_configs() -> list[str]:
    """Lists the names of the shipped configs, such as "quickstart" and "public/frappe_wukong"."""
    folder = _shipped_folder()
    paths = [path for path in folder.rglob("*.py") if "\ndef get_config(" in path.read_text(encoding="utf-8")]
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in paths)


def import_shipped_configs() -> ModuleType:
    """Imports the package of shipped configs; in a checkout that is not installed, `configs/` under the same name."""
    try:
        return importlib.import_module(_SHIPPED)
    except ModuleNotFoundError as error:
        if error.name != _SHIPPED:
            raise
    return _import_package(_SHIPPED, Path(__file__).resolve().parents[1] / "configs")


def _shipped_folder() -> Path:
    return Path(str(import_shipped_configs().__file__)).resolve().parent


def _import_config(file: str) -> tuple[Path, ModuleType]:
    """Finds a config file and runs it as a module."""
    folder, path = _shipped_folder(), Path(file)
    if path.suffix != ".py" or not path.is_file():
        path = folder / f"{_find_shipped(file)}.py"
    with _naming_the_line(path):
        return path, _import_file(path.resolve(), folder)


def _find_shipped(file: str) -> str:
    """Finds the name of a shipped config, which may also be given by its path in a checkout."""
    wanted, shipped = file.removeprefix("./").removeprefix("configs/").removesuffix(".py"), list_shipped_configs()
    wanted = _RENAMED.get(wanted, wanted)
    if wanted in shipped:
        return wanted
    short = [(alias, name) for name in shipped for alias in {name.rpartition("/")[2], name.replace("/", "_")}]
    found = sorted({name for alias, name in short if alias == wanted})
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"config = {file!r}: there are several of this name; give one of {', '.join(found)}")
    names = dict(short) | {name: name for name in shipped}
    near = [names[alias] for alias in difflib.get_close_matches(wanted, names, n=3, cutoff=0.7)]
    hint = f"did you mean {' or '.join(map(repr, dict.fromkeys(near)))}?" if near else "such as 'quickstart'"
    raise UserError(f"config = {file!r}: no such Python file and no shipped config; {hint}")


def _import_file(path: Path, shipped: Path) -> ModuleType:
    """Runs a Python file; a file in a package is imported as part of it, so that relative imports work."""
    root = path
    while (root.parent / "__init__.py").exists():
        root = root.parent
    if root == path:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    package = _SHIPPED
    if root != shipped:
        package = f"configs_{hashlib.sha256(str(root).encode()).hexdigest()[:12]}"
        _import_package(package, root)
    name = ".".join([package, *path.relative_to(root).with_suffix("").parts])
    if root != shipped:
        sys.modules.pop(name, None)  # the file may have been edited since
    return importlib.import_module(name)


def _import_package(name: str, folder: Path) -> ModuleType:
    """Imports a folder as a package of the given name."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], last, module)
    return module


@contextlib.contextmanager
def _naming_the_line(path: Path) -> Iterator[None]:
    """Converts an exception in a config file, or a file in its folder, to a UserError with file and line number."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(describe_mistake(error, str(path), path.resolve().parent)) from error

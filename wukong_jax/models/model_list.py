"""Lists the models that a config can name, without importing them."""

import ast
import importlib.util
from pathlib import Path

_PACKAGES = ("wukong_jax.models", "dmt", "lattice")  # packages with models; the last two may be missing


def list_models() -> list[str]:
    """Returns the names for `config.model.factory`, such as "wukong_jax.models.wukong:build".

    Every module with a function `build(options, shape)` is a model. Models of other packages are named in the same way,
    but are not in this list.
    """
    names = []
    for package in _PACKAGES:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            for path in Path(folder).rglob("*.py"):
                if _builds_a_model(path):
                    module = path.relative_to(folder).with_suffix("").parts
                    names.append(".".join((package, *module)) + ":build")
    return sorted(names)


def _builds_a_model(path: Path) -> bool:
    functions = (node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef))
    return any(
        function.name == "build" and [argument.arg for argument in function.args.args] == ["options", "shape"]
        for function in functions
    )

"""Tests that imports go one way, between the three packages and between the parts of wukong_jax."""

import ast

import pytest

from tests.repository import ROOT as REPOSITORY

PACKAGES = ("wukong_jax", "dmt", "lattice")  # a later one may import an earlier one

# The parts of wukong_jax in the order of the data's way; a later one may import an earlier one, and itself.
# `config` comes after the parts whose own settings it collects, so that no part reads the run's config.
PARTS = (
    "errors",
    "messages",
    "user_code",
    "factories",
    "files",
    "ranges",
    "idle_options",
    "strict_mapping",
    "schema",
    "sharding",
    "data",
    "embeddings",
    "layers",
    "models",
    "metrics",
    "config_upgrade",
    "config",
    "config_overrides",
    "config_files",
    "training",
    "runs",
    "serving",
    "online",
    "reports",
    "api",
    "scaling",
    "clusters",
    "bench",
    "cli",
    "__main__",
)


def find_wrong_imports(source: str, module: str) -> list[str]:
    """Checks one file.

    Args:
      source: its text.
      module: its dotted name, `wukong_jax.data.blocks.loader`; of a package, with `.__init__` at the end.

    Returns:
      One line for each import against the order.
    """
    wrong = []
    for line, imported in list_imports(source, module):
        reason = explain_wrong_import(module.split("."), imported.split("."))
        if reason:
            wrong.append(f"{module}, line {line}: imports {imported}; {reason}")
    return wrong


def list_imports(source: str, module: str) -> list[tuple[int, str]]:
    imports = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imports += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            # `from wukong_jax import training` and `from . import x` name modules, not their contents.
            short = name.count(".") == 0
            imports += [(node.lineno, f"{name}.{alias.name}" if short else name) for alias in node.names]
    return imports


def explain_wrong_import(importer: list[str], imported: list[str]) -> str:
    if imported[0] not in PACKAGES:
        return ""
    if PACKAGES.index(imported[0]) > PACKAGES.index(importer[0]):
        return f"{importer[0]} never imports {imported[0]}"
    if importer[0] != "wukong_jax" or importer[1:] == ["__init__"] or len(imported) == 1:
        return ""
    for part in (importer[1], imported[1]):
        if part not in PARTS:
            return f"part {part!r} has no place in PARTS of this test; give it one"
    if PARTS.index(imported[1]) > PARTS.index(importer[1]):
        return f"{importer[1]} comes before {imported[1]}"
    return ""


def test_every_import_goes_one_way():
    wrong, files = [], 0
    for package in PACKAGES:
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            module = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
            wrong += find_wrong_imports(path.read_text(), module)
            files += 1
    assert files > 20
    assert not wrong, "\n".join(wrong)


def test_every_part_of_wukong_jax_has_a_place():
    folder = REPOSITORY / "wukong_jax"
    modules = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    assert modules - {"__init__"} <= set(PARTS)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("wukong_jax.models.bad", "import dmt"),
        ("wukong_jax.training.bad", "def f():\n    from lattice.network.network import build"),
        ("wukong_jax.bad.__init__", "import lattice.network.network as n"),
        ("dmt.towers", "from lattice import network"),
        ("wukong_jax.data.bad", "from wukong_jax.training.run import Run"),
        ("wukong_jax.metrics.bad", "from wukong_jax import training"),
        ("wukong_jax.embeddings.bad", "from ..models.wukong import build"),
        ("wukong_jax.schema", "from . import data"),
        ("wukong_jax.errors", "import wukong_jax.schema"),
        ("wukong_jax.models.bad", "import wukong_jax.config, os"),
        ("wukong_jax.data.bad", "from wukong_jax.unheard_of import x"),
    ],
)
def test_checker_refuses_a_wrong_import(module, source):
    assert len(find_wrong_imports(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("wukong_jax.training.good", "from wukong_jax.metrics.auc import compute_auc\nimport jax"),
        ("wukong_jax.data.good", "from . import batch\nfrom .batch import Batch\nfrom ..errors import UserError"),
        ("lattice.network.network", "import dmt.towers\nfrom wukong_jax.models import wukong"),
        ("dmt.towers", "from wukong_jax.embeddings.layout import Layout"),
    ],
)
def test_checker_accepts_a_right_import(module, source):
    assert find_wrong_imports(source, module) == []

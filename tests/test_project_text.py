"""Tests the project's text: no machine paths, nothing unfinished, a docstring for every public name."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.repository import ROOT as REPOSITORY

PACKAGES = ("wukong_jax", "dmt", "lattice")
FOLDERS_NOT_OURS = {".git", ".venv", "runs", "build", "dist"}  # at the top of the checkout

# Written in parts, so that this file does not hold what it looks for.
MACHINE_PATH = re.compile(r"(?<![\w.~/-])/(?:" + "|".join(["work", "root", "home"]) + r")/\w")
LEFT_UNDONE = re.compile(r"\b(?:" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X"]) + r")\b|NotImplemented" + "Error")


def list_project_files() -> Iterator[Path]:
    """Returns every text file of the project: tracked or new files in git, or all files without a checkout."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True).stdout.decode().split("\0")
        paths = [REPOSITORY / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):
        paths = list(REPOSITORY.rglob("*"))
    for path in paths:
        if path.is_file() and path.relative_to(REPOSITORY).parts[0] not in FOLDERS_NOT_OURS:
            yield path


def find_in_text(pattern: re.Pattern[str], text: str) -> list[tuple[int, str]]:
    """Returns lines that match, as (number, line)."""
    return [(number, line) for number, line in enumerate(text.splitlines(), start=1) if pattern.search(line)]


def find_in_project(pattern: re.Pattern[str]) -> list[str]:
    found, files = [], 0
    for path in list_project_files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue  # a picture
        files += 1
        found += [f"{path.relative_to(REPOSITORY)}:{number}: {line}" for number, line in find_in_text(pattern, text)]
    assert files > 20
    return found


def find_undescribed(source: str) -> list[str]:
    """Returns public modules, classes, functions and methods without a docstring; nested functions are private."""
    tree = ast.parse(source)
    missing = [] if ast.get_docstring(tree) else ["the module"]
    outer: list[tuple[str, ast.Module | ast.ClassDef]] = [("", tree)]
    while outer:
        prefix, node = outer.pop()
        for child in node.body:
            if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or child.name[0] == "_":
                continue
            if not ast.get_docstring(child):
                missing.append(prefix + child.name)
            if isinstance(child, ast.ClassDef):
                outer.append((f"{prefix}{child.name}.", child))
    return missing


def test_no_file_names_a_machine_path():
    assert find_in_project(MACHINE_PATH) == []


def test_nothing_is_left_undone():
    assert find_in_project(LEFT_UNDONE) == []


def test_every_public_name_is_described():
    missing = []
    for package in PACKAGES:
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            missing += [f"{path.relative_to(REPOSITORY)}: {name}" for name in find_undescribed(path.read_text())]
    assert missing == []


@pytest.mark.parametrize("folder", ["work", "root", "home"])
def test_checker_finds_a_machine_path(folder):
    assert find_in_text(MACHINE_PATH, f'fine\npath = "/{folder}/data"') == [(2, f'path = "/{folder}/data"')]
    assert find_in_text(MACHINE_PATH, f"docs/{folder}/data and https://example.org/{folder}/x") == []


@pytest.mark.parametrize("text", ["# TO" + "DO: later", "raise NotImplemented" + "Error", "FIX" + "ME"])
def test_checker_finds_what_is_left_undone(text):
    assert find_in_text(LEFT_UNDONE, text) == [(1, text)]
    assert find_in_text(LEFT_UNDONE, "mastodon, method, TODOS") == []


def test_checker_finds_public_names_without_a_docstring():
    methods = "  def f(self): pass\n  def _g(self): pass\n"
    source = f'"""A module."""\nclass A:\n  """Is."""\n{methods}def h():\n  def nested(): pass\n'
    assert find_undescribed(source) == ["h", "A.f"]
    assert find_undescribed("") == ["the module"]

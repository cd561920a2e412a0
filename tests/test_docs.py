"""Tests documents: links and pictures resolve, named files and configs exist, the site's menu has every page."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.document_numbers import SOURCE
from tests.repository import CONFIGS, ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/**/*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
FILE = re.compile(r"(?:wukong_jax|dmt|lattice|tests|configs|scripts|docs)/[\w./]*\w\.\w+|(?:[\w]+/)+")
CONFIG = re.compile(r"((?:public|dmt|lattice|scaling)/\w+|quickstart)(?::\S+)?")
FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)


def strip_code(text: str) -> str:
    return FENCED.sub("", text)


def list_anchors(text: str) -> set[str]:
    """Returns the anchors of a page's headings, as on GitHub and the site."""
    headings = re.findall(r"^#+ (.*)$", strip_code(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def find_broken_links(page: Path, text: str) -> Iterator[str]:
    for link in LINK.findall(strip_code(text)):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.is_file():
            yield f"{page.relative_to(ROOT)}: {link}: no such file"
        elif anchor and anchor not in list_anchors(text if target == page else target.read_text()):
            yield f"{page.relative_to(ROOT)}: {link}: no such heading"


def find_missing_names(page: Path, text: str) -> Iterator[str]:
    """Returns files, folders of packages, and configs in code font that do not exist."""
    for code in CODE.findall(strip_code(text)):
        config = CONFIG.fullmatch(code)
        if config and not (CONFIGS / f"{config[1]}.py").is_file() and not (ROOT / code).exists():
            yield f"{page.relative_to(ROOT)}: {code}: no such config"
        top = code.partition("/")[0]
        if FILE.fullmatch(code) and top in ("wukong_jax", "dmt", "lattice", "tests", "configs", "scripts", "docs"):
            here = "docs/results" in str(page) and (page.parent / code).exists()
            if not (ROOT / code).exists() and not here:
                yield f"{page.relative_to(ROOT)}: {code}: no such file or folder"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page):
    assert list(find_broken_links(page, page.read_text())) == []


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "CHANGELOG.md"], ids=lambda p: str(p.relative_to(ROOT)))
def test_named_files_and_configs_exist(page):
    assert list(find_missing_names(page, page.read_text())) == []


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/results/README.md", "docs/guides/own_data.md"])
def test_checkers_find_what_is_broken(name):
    page = ROOT / name
    wrong = "[a](nowhere.md) ![b](none.png) [c](#no-such) `wukong_jax/none.py` `public/none` `tests/none/`"
    assert len(list(find_broken_links(page, wrong))) == 3
    assert len(list(find_missing_names(page, wrong))) == 3
    right = "# A b\n[a](#a-b) [web](https://example.org/x) `wukong_jax/errors.py` `wukong_jax/data/`\n```\n[x](y)\n```"
    assert list(find_broken_links(page, right)) == list(find_missing_names(page, right)) == []


def test_readme_lines_are_short():
    lines = SOURCE.sub("", (ROOT / "README.md").read_text()).splitlines()
    long = [line for line in lines if len(line) >= 120]
    assert long == []


def test_every_page_is_in_the_sites_menu():
    menu = (ROOT / "mkdocs.yml").read_text()
    pages = {str(path.relative_to(ROOT / "docs")) for path in ROOT.glob("docs/**/*.md")}
    listed = set(re.findall(r"[\w/]+\.md", menu)) - {"index.md", "contributing.md", "changelog.md"}
    assert listed == pages

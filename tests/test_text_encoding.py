"""Text files are UTF-8 whatever the locale says: every call that opens one names its encoding."""

import ast

from tests.repository import ROOT

PLACES = ("wukong_jax", "dmt", "lattice", "configs", "scripts")
OPENS_TEXT = {"read_text", "write_text", "open"}


def find_calls_without_encoding(source: str) -> list[int]:
    """Returns the lines of calls that open a text file without naming its encoding."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or any(keyword.arg == "encoding" for keyword in node.keywords):
            continue
        if ast.unparse(node.func) in ("os.open", "ts.open"):  # a descriptor, a store of arrays
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        modes = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        if name in OPENS_TEXT and not any(isinstance(mode, str) and "b" in mode for mode in modes):
            lines.append(node.lineno)
    return lines


def test_a_call_without_encoding_is_found():
    assert find_calls_without_encoding("path.read_text()\nopen(path)\npath.open('rb')") == [1, 2]


def test_every_text_file_is_opened_as_utf8():
    files = [path for place in PLACES for path in sorted((ROOT / place).rglob("*.py"))]
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in files
        for line in find_calls_without_encoding(path.read_text(encoding="utf-8"))
    ]
    assert files
    assert not found

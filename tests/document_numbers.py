"""Fills in the numbers of documents from kept results: `python -m tests.document_numbers`.

A number whose source is known is followed by a comment that pages do not show:

    AUC 0.9865<!-- = frappe_wukong test_auc .4f -->
    0.0066<!-- = scaling_planted model=DLRM size=l split=test excess_log_loss .4f -->

It names a folder of docs/results, what selects one row of its `results.json` (nothing where there is one row), the key,
and the format of Python, in which a `%` multiplies by 100 and is not printed. `date` needs neither row nor format.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from tests.repository import ROOT

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SOURCE = re.compile(r"<!-- = (?P<folder>\S+) (?P<path>[^>]*?) -->")
SOURCED = re.compile(r"(?P<value>[\w.\-]+)" + SOURCE.pattern)


def read_value(folder: str, path: str) -> str:
    """Returns the formatted number that a source names.

    Raises:
      ValueError: there is no such result, row or key, or more than one row.
    """
    results = json.loads((ROOT / "docs" / "results" / folder / "results.json").read_text(encoding="utf-8"))
    *selectors, key, form = path.split() if path != "date" else ("date", "")
    if key == "date":
        return results["date"]
    wanted = dict(selector.split("=") for selector in selectors)
    rows = [row for row in results["rows"] if all(str(row.get(name)) == value for name, value in wanted.items())]
    if len(rows) != 1:
        raise ValueError(f"{folder} {path}: {len(rows)} rows, not one")
    if key not in rows[0]:
        raise ValueError(f"{folder} {path}: no {key!r}")
    return format(float(rows[0][key]), form).rstrip("%")


def fill_in(text: str) -> str:
    """Returns a document with the numbers of its sources."""

    def fill(match: re.Match[str]) -> str:
        return match[0].replace(match["value"], read_value(match["folder"], match["path"]), 1)

    return SOURCED.sub(fill, text)


def find_wrong_numbers(text: str) -> Iterator[str]:
    """Yields each number that is not that of its source, and the right one."""
    for match in SOURCED.finditer(text):
        if match["value"] != (right := read_value(match["folder"], match["path"])):
            yield f"{match['value']} should be {right}: {match['folder']} {match['path']}"


def main() -> None:
    """Writes the numbers into the documents."""
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        if (filled := fill_in(text)) != text:
            Path(path).write_text(filled, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

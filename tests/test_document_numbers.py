import re

import pytest

from tests.document_numbers import DOCUMENTS, SOURCED, fill_in, find_wrong_numbers, read_value
from tests.repository import ROOT


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_numbers_are_those_of_the_kept_results(page):
    """If it fails: `python -m tests.document_numbers` writes them."""
    assert list(find_wrong_numbers(page.read_text(encoding="utf-8"))) == []


def test_every_fraction_among_the_readmes_results_has_a_source():
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## Results\n")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("|")]
    assert len(SOURCED.findall("".join(table))) >= 8
    unsourced = [SOURCED.sub("", line) for line in table]
    assert re.findall(r"\d+\.\d+|\d+ %", "".join(unsourced)) == []


def test_a_wrong_number_is_found_and_filled_in():
    right = read_value("frappe_wukong", "test_auc .4f")
    assert re.fullmatch(r"0\.98\d\d", right)
    text = "AUC 0.5000<!-- = frappe_wukong test_auc .4f --> on Frappe"
    assert len(list(find_wrong_numbers(text))) == 1
    assert fill_in(text) == f"AUC {right}<!-- = frappe_wukong test_auc .4f --> on Frappe"
    assert list(find_wrong_numbers(fill_in(text))) == []


def test_rows_percents_and_dates():
    path = "model=DLRM size=l split=test final=True excess_log_loss"
    assert read_value("scaling_planted", f"{path} .4f") == "0.0066"
    assert read_value("scaling_planted", f"{path} .1%") == "0.7"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", read_value("scaling_planted", "date"))


@pytest.mark.parametrize("path", ["model=DLRM test_auc .4f", "model=DLRN size=l auc .4f", "test_acu .4f"])
def test_a_source_that_names_no_single_number_is_refused(path):
    folder = "frappe_wukong" if path.startswith("test") else "scaling_planted"
    with pytest.raises(ValueError, match=re.escape(path)):
        read_value(folder, path)

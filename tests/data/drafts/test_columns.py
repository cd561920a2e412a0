"""Tests the rules that decide what a column is, each by a small file."""

import dataclasses
import json

import numpy as np
import polars as pl
import pytest

from tests.data.drafts.draft_rows import decide, draft_frame
from wukong_jax.data.drafts.limits import Limits

ROWS = 2000
RANDOM = np.random.default_rng(0)
CODES = RANDOM.permutation(np.repeat(RANDOM.integers(10_000, 99_999, 100), 20)).tolist()
TAIL = np.floor(np.exp(RANDOM.normal(3, 1.5, ROWS))).astype(int).tolist()
BELL = RANDOM.normal(500, 40, ROWS).round().astype(int).tolist()
PARTS = ["".join(RANDOM.choice(list("abcdefgh"), 2)) for _ in range(12)]


def join_parts(separator):
    return [separator.join(RANDOM.choice(PARTS, RANDOM.integers(1, 5), replace=False)) for _ in range(ROWS)]


@pytest.mark.parametrize(
    ("values", "name", "kind", "words"),
    [
        ([row % 2 for row in range(ROWS)], "flag", "number", "0 and 1"),
        ([row % 7 for row in range(ROWS)], "x", "category", "few values"),
        (TAIL, "x", "number", "low end"),
        (BELL, "x", "number", "smooth histogram"),
        (CODES, "x", "category", "rough histogram"),
        (TAIL, "item_id", "category", "ids by its name"),
        (TAIL, "movieId", "category", "ids by its name"),
        (CODES, "item_price", "number", "an amount by its name"),
        ([f"{code:07d}" for code in CODES], "x", "category", "leading zeros"),
        (RANDOM.integers(-1000, 1000, ROWS).tolist(), "x", "number", "some negative"),
        (RANDOM.random(ROWS).round(4).tolist(), "x", "number", "fraction"),
        ([f"{value}.0" for value in CODES], "user_id", "category", "ids by its name"),
        ([f"v{row % 9}" for row in range(ROWS)], "x", "category", "texts"),
        ([str(row % 2 == 0).lower() for row in range(ROWS)], "x", "category", "texts"),
        (["same"] * ROWS, "x", "left out", "the same value in all rows"),
        ([None, "a"] * (ROWS // 2), "x", "category", "texts"),
        ([None, 7] * (ROWS // 2), "x", "category", "one value, or none"),
        ([None] * ROWS, "x", "left out", "no value in any row"),
        ([f"key{row}" for row in range(ROWS)], "x", "left out", "one value a row"),
        (list(range(1000, 1000 + ROWS)), "x", "left out", "a row counter"),
        ([f"{' '.join(['word'] * 15)} {row}" for row in range(ROWS)], "x", "left out", "one value a row"),
        ([f"2026-01-{row % 28 + 1:02d}" for row in range(ROWS)], "birth_date", "left out", "dates"),
        (["[1, 2]", "[3]", "[1]"] * (ROWS // 3), "x", "left out", "lists in brackets"),
        (join_parts("|"), "x", "bag", "'|'"),
        (join_parts(";"), "x", "bag", "';'"),
        (join_parts(","), "x", "bag", "','"),
        (join_parts(", "), "x", "bag", "', '"),
        (join_parts(" "), "x", "bag", "' '"),
        (join_parts("|"), "click_history", "sequence", "'|'"),
        (["New York", "Los Angeles", "Rome"] * (ROWS // 3), "x", "category", "texts"),
        (["3,5", "4,25", "1,0"] * (ROWS // 3), "x", "category", "texts"),
    ],
)
def test_kind_follows_from_name_and_values(values, name, kind, words, tmp_path):
    decision = decide(values, tmp_path, name)
    assert (decision.kind, words in decision.reason) == (kind, True), decision.reason


@pytest.mark.parametrize(
    ("values", "transform", "missing_value"),
    [
        (TAIL, "log1p", 0.0),
        ([*TAIL[:-1], None], "log1p", 0.0),
        ([*TAIL[:-99], *[-1] * 99], "log1p", 0.0),
        ([*TAIL[:-1], -50], "log1p", 0.0),
        ([*TAIL[:-99], *[-50] * 99], "standardise", 0.0),
        (BELL, "standardise", 0.0),
        ([*BELL[:-1], None], "standardise", float(np.median(BELL[:-1]))),
        ([-value for value in TAIL], "standardise", 0.0),
        ([row % 2 for row in range(ROWS)], "none", 0.0),
    ],
)
def test_transform_follows_from_the_tail(values, transform, missing_value, tmp_path):
    entry = decide(values, tmp_path, "amount").entry
    assert (entry.transform, entry.missing_value) == (transform, missing_value)


def test_missing_zero_or_one_is_a_category(tmp_path):
    assert decide([0, 1, None, 1] * 500, tmp_path).kind == "category"


@pytest.mark.parametrize("mark", ["NULL", "NA", "\\N", "?", "-", "nan", "None"])
def test_marks_in_numbers_mean_no_value(mark, tmp_path):
    decision = decide([*BELL[:-1], mark], tmp_path)
    assert (decision.kind, decision.profile.empty) == ("number", 1)


def test_rare_mark_in_texts_is_a_value_and_a_frequent_one_is_not(tmp_path):
    texts = [f"t{row % 9}" for row in range(ROWS)]
    assert decide([*texts[:-1], "NULL"], tmp_path).profile.empty == 0
    assert decide([*texts[:-100], *["NULL"] * 100], tmp_path).profile.empty == 100
    assert decide([*texts[:-100], *["NA"] * 100], tmp_path).profile.empty == 0  # may be Namibia


def test_a_number_that_is_none_makes_texts_and_is_named(tmp_path):
    decision = decide([*[f"{value}.5" for value in BELL[:-1]], "12 kg"], tmp_path)
    assert decision.kind == "left out" or "12 kg" in decision.unsure
    decision = decide([f"{row % 50} %" for row in range(ROWS)], tmp_path)
    assert decision.kind == "category"
    assert "looks like numbers" in decision.unsure


def test_too_large_for_float32_is_no_number(tmp_path):
    assert decide([*[f"{value}.5" for value in BELL[:-1]], "1e39"], tmp_path).kind != "number"


def test_doubts_say_how_to_change_them(tmp_path):
    assert '"dense"' in decide(CODES, tmp_path).unsure
    assert '"separator"' in decide(join_parts(" "), tmp_path).unsure
    seconds = [1_600_000_000 + 7919 * (row * 37 % ROWS) for row in range(ROWS)]
    assert "--timestamp=x" in decide(seconds, tmp_path).unsure


def test_many_ids_are_hashed_into_a_power_of_two(tmp_path):
    limits = dataclasses.replace(Limits(), hash_above=50)
    entry = decide(CODES, tmp_path, "item_id", limits=limits).entry
    assert (entry.encoding, entry.rows) == ("hash", 256)
    entry = decide(join_parts("|"), tmp_path, limits=dataclasses.replace(limits, hash_above=5)).entry
    assert (entry.encoding, entry.rows, entry.separator) == ("hash", 32, "|")


def test_rare_ids_share_the_unknown_row(tmp_path):
    assert decide([f"c{row % 101}" for row in range(ROWS)], tmp_path).entry.min_count == 2
    assert decide([f"c{row % 100}" for row in range(ROWS)], tmp_path).entry.min_count == 1


def test_slots_of_a_bag_hold_most_bags(tmp_path):
    bags = [*["a|b", "b|c", "a"] * 660, *["a|b|c|d|e|f"] * 5]
    entry = decide(bags, tmp_path).entry
    assert (entry.separator, entry.max_length) == ("|", 2)
    assert decide(["|".join(["a", "b", "c"] * 40), "a|b", "c"] * 700, tmp_path).entry.max_length == 64


def test_lists_of_parquet_are_bags_and_vectors_are_left_out(tmp_path):
    frame = pl.DataFrame(
        {
            "tags": [[1, 2], [2, 3], [], None] * 50,
            "words": [["a"], ["b", "a"], ["c"], None] * 50,
            "vector": [[0.5, 1.0]] * 200,
            "nested": [{"a": 1}] * 200,
            "nothing": [None] * 200,
            "pairs": pl.Series([[1, 2], [3, 1]] * 100, dtype=pl.Array(pl.Int64, 2)),
            "label": [row * 5 % 7 % 2 for row in range(200)],
        }
    )
    kinds = {d.name: d for d in draft_frame(frame, tmp_path / "rows.parquet").decisions}
    assert {name: decision.kind for name, decision in kinds.items()} == {
        "tags": "bag",
        "words": "bag",
        "vector": "left out",
        "nested": "left out",
        "nothing": "left out",
        "pairs": "bag",
        "label": "label",
    }
    assert (kinds["tags"].entry.max_length, kinds["tags"].profile.empty, kinds["tags"].profile.distinct) == (2, 100, 3)


def test_history_shares_the_vocabulary_of_its_items(tmp_path):
    items = [f"i{row * 7 % 50}" for row in range(ROWS)]
    history = ["|".join(items[max(0, row - 3) : row]) for row in range(ROWS)]
    frame = pl.DataFrame({"item": items, "history": history, "user": [f"u{row % 40}" for row in range(ROWS)]})
    labels = pl.Series("label", [row * 7 // 3 % 2 for row in range(ROWS)])
    draft = draft_frame(frame.with_columns(labels), tmp_path / "rows.csv")
    assert draft.schema.sequences[0].vocabulary_of == "item"
    assert draft.schema.group == "user"
    json.dumps(dataclasses.asdict(draft.schema))

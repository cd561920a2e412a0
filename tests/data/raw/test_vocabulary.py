"""Tests that ids only depend on counts and texts, and that a stored vocabulary restores them."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wukong_jax.data.raw.canonical_values import canonical_text
from wukong_jax.data.raw.vocabulary import (
    StoredCodes,
    ValueCodes,
    Vocabulary,
    build_vocabulary,
    load_vocabulary,
    save_vocabulary,
    vocabulary_path,
)
from wukong_jax.errors import UserError


def vocabulary_twin(texts, min_count):
    counts = Counter(texts)
    known = sorted((t for t in counts if counts[t] >= min_count), key=lambda t: (-counts[t], t.encode()))
    return {text: index + 1 for index, text in enumerate(known)}


def build(texts, min_count, order=None):
    codes = ValueCodes()
    arrived = codes.encode(pl.Series([texts[i] for i in order]) if order is not None else pl.Series(texts))
    return codes, build_vocabulary(codes.texts(), np.bincount(arrived), min_count)


TEXTS = ["b", "a", "c", "a", "", "ä", "b", "Z", "c", "z", "日本", "", "a"]


@pytest.mark.parametrize("min_count", [1, 2, 3, 9])
def test_ids_equal_twin_in_any_order_of_arrival(min_count):
    twin = vocabulary_twin(TEXTS, min_count)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(TEXTS))
        codes, (vocabulary, ids) = build(TEXTS, min_count, order)
        assert vocabulary.values.to_list() == list(twin)
        assert ids[codes.encode(pl.Series(TEXTS))].tolist() == [twin.get(text, 0) for text in TEXTS]


def test_values_seen_outside_of_training_are_unknown():
    codes = ValueCodes()
    train = codes.encode(pl.Series(["a", "b"]))
    codes.encode(pl.Series(["never in train"]))
    vocabulary, ids = build_vocabulary(codes.texts(), np.bincount(train), 1)
    assert vocabulary.values.to_list() == ["a", "b"]
    assert ids.tolist() == [1, 2, 0]


def test_codes_survive_when_no_series_is_left():
    codes = ValueCodes()
    first = codes.encode(pl.Series(["a", "b"])).tolist()
    codes.encode(pl.Series(["c"]))
    assert codes.encode(pl.Series(["a", "b"])).tolist() == first
    assert codes.texts().to_list() == ["a", "b", "c"]


def test_stored_vocabulary_gives_the_same_ids(tmp_path):
    texts = [*TEXTS, "new\nline", 'quo"te', "tab\t", "a/b"]
    _, (vocabulary, _) = build(texts, 1)
    save_vocabulary(vocabulary, tmp_path, "odd/name .x")
    loaded = load_vocabulary(tmp_path, "odd/name .x")
    assert loaded.rows == vocabulary.rows == len(vocabulary_twin(texts, 1)) + 1
    twin = vocabulary_twin(texts, 1)
    codes = StoredCodes(loaded)
    asked = ["unseen", *texts, "unseen too"]
    for _ in range(2):  # unseen values stay unknown when they come again
        assert codes.encode(pl.Series(asked)).tolist() == [twin.get(text, 0) for text in asked]


SPELLINGS = ["7", "7.0", "7.00", "-0.0", "0", "True", "true", "a", "", "x.0", "8.0"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(SPELLINGS), min_size=1), st.integers(1, 3), st.data())
def test_texts_of_one_canonical_form_are_one_value(texts, min_count, data):
    """A twin counts canonical forms, in any order of arrival; new rows get the same ids from the stored vocabulary."""
    codes, (vocabulary, ids) = build(texts, min_count)
    twin = vocabulary_twin([canonical_text(text) for text in texts], min_count)
    assert vocabulary.values.to_list() == list(twin)
    assert vocabulary.counts.sum() == sum(canonical_text(text) in twin for text in texts)
    expected = {text: twin.get(canonical_text(text), 0) for text in SPELLINGS}
    assert ids[codes.encode(pl.Series(texts))].tolist() == [expected[text] for text in texts]
    chunks = data.draw(st.lists(st.lists(st.sampled_from([*SPELLINGS, None])), max_size=4))
    stored = StoredCodes(vocabulary)
    with ThreadPoolExecutor(4) as threads:  # as columns that share a vocabulary
        encoded = threads.map(stored.encode, [pl.Series(chunk, dtype=pl.String) for chunk in chunks])
    for chunk, got in zip(chunks, encoded, strict=True):
        assert got.tolist() == [expected[text or ""] for text in chunk]


def test_a_vocabulary_of_an_older_version_keeps_the_more_frequent_of_two_spellings():
    stored = Vocabulary(pl.Series(["3.0", "7.0", "7", "True", "b"]), pl.Series([9, 5, 4, 3, 2]))
    codes = StoredCodes(stored)
    asked = pl.Series(["3", "3.0", "7", "7.0", "true", "TRUE", "b", "new", "9.0"])
    assert codes.encode(asked).tolist() == [1, 1, 2, 2, 4, 4, 5, 0, 0]


@pytest.mark.parametrize("column", ["用户" * 40, "a" * 300, "é" * 60, "x" * 250, "%" * 100, "CON"])
def test_a_long_name_is_stored_under_a_short_one(tmp_path, column):
    _, (vocabulary, _) = build(TEXTS, 1)
    others = [column + "!", column[:-1], column.upper() + "Z"]
    for name in (column, *others):
        path = vocabulary_path(tmp_path, name)
        assert len(path.name.encode()) <= 255
        save_vocabulary(vocabulary, tmp_path, name)
    assert len(list(tmp_path.iterdir())) == len({column, *others})
    assert load_vocabulary(tmp_path, column).values.to_list() == vocabulary.values.to_list()


def test_names_that_fit_keep_the_file_of_earlier_versions(tmp_path):
    assert vocabulary_path(tmp_path, "user id/中").name == "user id%2F%E4%B8%AD.parquet"
    assert vocabulary_path(tmp_path, "a" * 247).name == "a" * 247 + ".parquet"


def test_more_values_than_ids_are_refused(monkeypatch):
    monkeypatch.setattr("wukong_jax.data.raw.vocabulary.MAX_ROWS", 3)
    codes = ValueCodes()
    codes.encode(pl.Series(["a", "b", "c"]))
    with pytest.raises(UserError, match="4 distinct values, the limit is 3; use encoding 'hash'"):
        codes.encode(pl.Series(["d"]))


def test_empty_vocabulary_knows_nothing(tmp_path):
    _, (vocabulary, _) = build(["a"], 2)
    assert vocabulary.rows == 1
    assert StoredCodes(vocabulary).encode(pl.Series(["a", "b"])).tolist() == [0, 0]


def test_missing_or_damaged_vocabulary_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"absent\.parquet.*prepare the data again"):
        load_vocabulary(tmp_path, "absent")
    vocabulary_path(tmp_path, "bad").write_bytes(b"not parquet")
    with pytest.raises(UserError, match=r"bad\.parquet.*prepare the data again") as error:
        load_vocabulary(tmp_path, "bad")
    assert "\n" not in str(error.value)

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


def test_texts_of_one_canonical_form_are_one_value_in_any_order_of_arrival():
    for texts in (["7.0", "7", "True", "true"], ["7", "7.0", "true", "True"]):
        codes, (vocabulary, ids) = build(texts, 2)
        assert vocabulary.values.to_list() == ["7", "true"]
        assert ids[codes.encode(pl.Series(["true", "7.0", "True", "7"]))].tolist() == [2, 1, 2, 1]
    codes = ValueCodes()
    first = codes.encode(pl.Series(["8.0", "a", "9"]))
    assert codes.encode(pl.Series(["9.0", "8", "a", "-0.0", "0"])).tolist()[:3] == [first[2], first[0], first[1]]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.sampled_from(["7", "7.0", "7.00", "-0.0", "0", "True", "true", "a", "", None, "x.0"]))))
def test_codes_of_parallel_columns_equal_a_twin(chunks):
    codes, known = ValueCodes(), {}
    with ThreadPoolExecutor(4) as threads:
        encoded = list(threads.map(codes.encode, [pl.Series(chunk, dtype=pl.String) for chunk in chunks]))
    texts = codes.texts().to_list()
    for chunk, got in zip(chunks, encoded, strict=True):
        for text, code in zip(chunk, got.tolist(), strict=True):
            form = canonical_text(text or "")
            assert texts[code] == form
            assert known.setdefault(form, code) == code


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

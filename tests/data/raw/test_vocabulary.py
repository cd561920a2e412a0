"""Tests that ids only depend on counts and texts, and that a stored vocabulary restores them."""

from collections import Counter

import numpy as np
import polars as pl
import pytest

from wukong_jax.data.raw.vocabulary import (
    StoredCodes,
    ValueCodes,
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

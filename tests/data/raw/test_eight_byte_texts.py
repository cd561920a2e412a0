"""Tests that texts of 8 bytes get the hash that they get among texts of other lengths."""

import polars as pl
import pytest

from wukong_jax.data.raw.canonical_values import canonical_text
from wukong_jax.data.raw.column_encoders import encode_group, encode_single
from wukong_jax.data.raw.eight_byte_texts import may_change_words, read_words
from wukong_jax.data.raw.stable_hash import hash_texts
from wukong_jax.schema import CategoricalColumn

PLAIN = [f"{value:08x}" for value in range(0, 2**32, 2**32 // 400)]
CASES = {
    "hexadecimal digits": PLAIN,
    "missing ones": [*PLAIN, None, "", None],
    "other lengths": [None, *PLAIN, "a", "123456789", "äöü", "", "7.0", "TRUE", None],
    "letters of two bytes": [*PLAIN, "äöüß", "ab\u00e4\u00f6\u00fcx"],
    "integers with a fraction": [*PLAIN, "123456.0", "12345.00", "-12345.0", "123.4560", "0012.000"],
    "NUL bytes": [*PLAIN, "\0" * 8, "a" + "\0" * 7, None],
    "nothing else": [None] * 300,
    "none": [],
}


@pytest.mark.parametrize("texts", CASES.values(), ids=CASES)
@pytest.mark.parametrize("chunks", [1, 7])
def test_texts_of_eight_bytes_hash_as_any_texts(texts, chunks):
    values = pl.Series("c", texts, dtype=pl.String)
    if chunks > 1:
        size = max(1, -(-len(texts) // chunks))
        values = pl.concat([values.slice(at, size) for at in range(0, max(len(texts), 1), size)], rechunk=False)
    forms = pl.Series([canonical_text(text or "") for text in texts], dtype=pl.String)
    problems = []
    column = CategoricalColumn("c", "hash", rows=1_000_003, salt=5)
    assert encode_single(column, column, values, None, problems).tolist() == [
        1 + int(value) % 1_000_002 for value in hash_texts(forms, 5)
    ]
    assert encode_group("c", values, problems).tolist() == [int(value) >> 33 for value in hash_texts(forms, 0)]
    assert not problems


def test_words_are_read_where_most_texts_have_eight_bytes():
    words = read_words(pl.Series(["12345678", None, "x", "abcdefgh", "ijklmnop"]))
    assert words.values.tolist() == [
        int.from_bytes(t, "little") for t in (b"12345678", b"", b"", b"abcdefgh", b"ijklmnop")
    ]
    assert words.others.tolist() == [2]
    assert read_words(pl.Series(["12345678", "x", "y"])) is None
    assert read_words(pl.Series(["12345678", "\0" * 8])) is None


def test_words_that_may_have_another_form_are_found():
    for text in (*PLAIN, "123456.0", "1.000000", "a.b.c.d0", "0.123456", "........"):
        changes = may_change_words(read_words(pl.Series([text])).values)
        assert changes or canonical_text(text) == text
        assert changes == ("." in text and text.endswith("0"))

"""Tests that the layout of a file is read as the reader of its rows reads it."""

import bz2

import polars as pl
import pytest

from wukong_jax.data.drafts.scan import LayoutHints, find_layout
from wukong_jax.errors import UserError


def test_a_parquet_file_is_a_name_and_not_a_pattern(tmp_path):
    file = tmp_path / "day=[1]" / "rows*.parquet"
    file.parent.mkdir()
    pl.DataFrame({"a": [1], "click": [0]}).write_parquet(file)
    assert find_layout(file, LayoutHints()).names == ("a", "click")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (bz2.compress(b"a,click\n1,0\n"), "a bz2 file, not UTF-8 text or .gz; decompress it first"),
        ("a,click\n1,0\n".encode("utf-16"), "UTF-16 text, not UTF-8 text or .gz; convert it to UTF-8"),
        (b"PAR1 and no more", "not readable as Parquet"),
        (b"\x1f\x8b and no more", "damaged .gz"),
    ],
)
def test_a_file_that_is_no_table_is_named_in_one_line(tmp_path, content, words):
    file = tmp_path / "rows.csv"
    file.write_bytes(content)
    with pytest.raises(UserError, match=words) as error:
        find_layout(file, LayoutHints())
    assert "\n" not in str(error.value)


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_bytes(b"\xef\xbb\xbfa,click\n1,0\n")
    assert find_layout(file, LayoutHints(("click",))).names == ("a", "click")

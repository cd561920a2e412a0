"""Tests that a text means the same number, or the same missing value, quoted or not and whatever rows surround it."""

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wukong_jax.data.raw.bad_rows import BadRows
from wukong_jax.data.raw.column_encoders import parse_numbers
from wukong_jax.data.raw.raw_files import read_raw_rows
from wukong_jax.schema import Source

BLANKS = " \t"
number_texts = st.one_of(
    st.text(st.sampled_from("0123456789+-.eEinfatyNIF _\tx٣'"), max_size=7),
    st.floats().map(repr),
    st.sampled_from([" 0.1", "0.1 ", "1_000", "0x10", "1e400", "-0", ".", "  ", "NA", " NA", "-1", " -1", ""]),
)


def read(folder, texts, missing, neighbour, quote):
    """Returns the number of each text (NaN: missing) and whether it is bad, read beside another row."""
    path = folder / "rows.csv"
    rows = [f'"{text}",x' if quote else f"{text},x" for text in [*texts, neighbour]]
    path.write_text("n,c\n" + "\n".join(rows), encoding="utf-8")
    source = Source("csv", missing=missing)
    frame = pl.concat(
        [rows.frame for rows in read_raw_rows(path, source, ["n", "c"], BadRows(), numbers={"n"})],
        how="vertical_relaxed",
    )
    numbers, bad = parse_numbers(frame["n"])
    return numbers[:-1], bad[:-1]


def python_number(text, missing):
    """Returns the number of a text by Python's own rules: NaN if it is missing, infinite if it is bad."""
    if text in missing or text.strip(BLANKS) in missing:
        return np.nan
    text = text.strip(BLANKS)
    try:
        return float(text) if text.isascii() and "_" not in text else np.inf
    except ValueError:
        return np.inf


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.lists(number_texts, min_size=1, max_size=5),
    st.sampled_from([("",), ("NA",), ("", "NA"), ("", "-1"), ("nan", ""), ()]),
    st.booleans(),
)
@example([" 0.5", "  "], ("",), False)
@example([""], ("NA",), False)
@example(["-1", " -1"], ("", "-1"), False)
@example(["", "NA"], ("", "NA"), True)
def test_a_number_does_not_depend_on_its_neighbours_or_quotes(tmp_path_factory, texts, missing, quote):
    folder = tmp_path_factory.mktemp("a")
    texts = [text for text in texts if text.strip("\r\n") == text]
    expected = np.array([python_number(text, missing) for text in texts])
    for neighbour in ("7", "no number", "7 "):
        numbers, bad = read(folder, texts, missing, neighbour, quote)
        np.testing.assert_array_equal(bad, np.isinf(expected))
        np.testing.assert_array_equal(numbers[~bad], expected[~bad])


@pytest.mark.parametrize("missing", [("",), ("", "NA"), ("NA",), ('"', ""), ()])
def test_quotes_do_not_make_a_missing_text_a_value(tmp_path, missing):
    texts = ["", "NA", 'a"b', '"', "x"]
    expected = [None if text in missing else text for text in texts]
    for quote in (False, True):
        rows = ['"' + text.replace('"', '""') + '"' if quote or text[:1] == '"' else text for text in texts]
        (tmp_path / "rows.csv").write_text("a,b\n" + "".join(f"{text},1\n" for text in rows), encoding="utf-8")
        (rows,) = read_raw_rows(tmp_path / "rows.csv", Source("csv", missing=missing), ["a", "b"], BadRows())
        assert rows.frame["a"].to_list() == expected


@pytest.mark.parametrize("missing", [("",), ("NA",)])
def test_a_blank_line_in_a_file_of_one_column_is_an_empty_value(tmp_path, missing):
    (tmp_path / "rows.csv").write_text('a\n\nx\nNA\n""\n\n', encoding="utf-8")
    (rows,) = read_raw_rows(tmp_path / "rows.csv", Source("csv", missing=missing), ["a"], BadRows())
    assert rows.frame["a"].to_list() == [None if text in missing else text for text in ["", "x", "NA", "", ""]]
    assert rows.lines.tolist() == [2, 3, 4, 5, 6]


def test_a_chunk_may_start_with_a_byte_order_mark(tmp_path):
    (tmp_path / "rows.tsv").write_text("\ufeff\ufeffa\tb\n\ufeffc\td\n", encoding="utf-8")
    source = Source("csv", separator="\t", header=False, columns=("a", "b"))
    chunks = read_raw_rows(tmp_path / "rows.tsv", source, ["a", "b"], BadRows(), chunk_bytes=1)
    assert [chunk.frame.row(0) for chunk in chunks] == [("\ufeffa", "b"), ("\ufeffc", "d")]

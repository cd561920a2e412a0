"""Tests that separator, header and names of a text file are found from its first lines."""

import pytest

from wukong_jax.data.drafts.file_layout import detect_text_layout
from wukong_jax.errors import UserError


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
def test_separator_divides_all_lines_alike(separator):
    lines = [separator.join(row) for row in (["a", "b", "c"], ["1", "2.5", "x"], ["2", "3.5", "y"])]
    layout = detect_text_layout(lines)
    assert (layout.source.separator, layout.names, layout.source.header) == (separator, ("a", "b", "c"), True)


def test_separator_with_most_fields_wins_and_one_broken_line_does_not_count():
    lines = ["a;b;c", *["1,5;2,5;x|y"] * 20, "1,5;2,5"]
    assert detect_text_layout(lines).source.separator == ";"


def test_separators_inside_quotes_do_not_count():
    layout = detect_text_layout(['"a,b";c', '"1,2,3";4', '"5";6'])
    assert (layout.source.separator, layout.names) == (";", ("a,b", "c"))


def test_line_breaks_inside_quotes_do_not_count_and_a_stray_quote_does_not_swallow_lines():
    layout = detect_text_layout(["a;b", *['"x', 'y";1', "z;2"] * 20])
    assert (layout.source.separator, layout.names) == (";", ("a", "b"))
    layout = detect_text_layout(["a;b", '"x;1', *["z;2"] * 30])
    assert (layout.source.separator, layout.names) == (";", ("a", "b"))


@pytest.mark.parametrize(
    ("lines", "header"),
    [
        (["user,price", "u1,3.5"], True),
        (["1,2", "3,4"], False),
        (["u1,3.5", "u2,4.5"], False),
        (["a,b", "x,y", "z,x"], True),  # none of a, b occurs below
        (["x,y", "x,z", "y,z"], False),
        (["a,a", "1,2"], False),
        (["only"], True),
    ],
)
def test_header_is_told_from_a_row(lines, header):
    assert detect_text_layout(lines).source.header is header


def test_the_label_makes_a_header_even_of_numbers():
    assert detect_text_layout(["click,101,121", "0,1,1"], ["click"]).source.header


def test_without_header_columns_are_numbered_or_named():
    lines = ["1,2", "3,4"]
    assert detect_text_layout(lines).names == ("column_1", "column_2")
    assert detect_text_layout(lines, columns=("a", "b")).source.columns == ("a", "b")
    assert detect_text_layout(["a,b", "x,y"], header=False).names == ("column_1", "column_2")
    with pytest.raises(UserError, match="3 names for 2 columns"):
        detect_text_layout(lines, columns=("a", "b", "c"))
    with pytest.raises(UserError, match="the header says a, b"):
        detect_text_layout(["a,b", "1,2"], columns=("b", "a"), header=True)


def test_no_lines_are_refused():
    with pytest.raises(UserError, match="empty"):
        detect_text_layout(["", " "])

"""Tests that headers are read like rows, and that what is wrong with one is said in a line that helps."""

import pytest

from wukong_jax.data.raw.bad_rows import BadRows
from wukong_jax.data.raw.raw_files import read_raw_rows
from wukong_jax.errors import UserError
from wukong_jax.schema import Source


def read(folder, text, source=None, needed=("click", "d", "c"), **options):
    path = folder / "part-2.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    (rows,) = read_raw_rows(path, source or Source("csv"), needed, BadRows(), **options)
    return rows.frame.select(name for name in needed if name in rows.frame.columns).rows(), rows.lines.tolist()


@pytest.mark.parametrize("text", ["0,3,abc\n1,4,x\n", "0,,abc\n", "1,1,1\n", '"0","3","a"\n', "0,3"])
def test_a_file_without_header_is_asked_about_it(tmp_path, text):
    with pytest.raises(UserError) as error:
        read(tmp_path, text)
    message = str(error.value)
    assert "part-2.csv, line 1 has no column 'click'; it reads '" in message
    assert "does this file lack the header? give source.columns and source.header = false, or add" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\nx,y\n", r"no column 'click'; it has a, b; if that is a row, the file lacks the header"),
        ("click,c\n1,2\n", r"no column 'd'; it has click, c$"),
        ("click, d, c\n1,2,3\n", r"no column 'd'; it has click,  d,  c; .*source.strip = true"),
        ("click,d,c,c\n1,2,3,4\n", "a name is listed twice"),
        ('click,"d" x,c\n1,2,3\n', r"line 1, header: a quote .* is not doubled"),
        ('click,"d\n1,2\n', r"line 1, header: a quote .* is opened and not closed"),
        (b"click,d\xff,c\n1,2,3\n", "line 1, header: not UTF-8 text; convert the file to UTF-8"),
        ("click\x1b[31m,d\n1,2\n", r"it has 'click\\x1b"),
    ],
)
def test_a_header_that_does_not_fit_is_named(tmp_path, text, message):
    with pytest.raises(UserError, match=rf"part-2\.csv.*{message}") as error:
        read(tmp_path, text)
    assert str(error.value).isprintable()


def test_names_are_quoted_like_values_and_lines_are_counted(tmp_path):
    text = '\n\r\n"click",d 5",c,"a\n""b"""\n1,2,3,4\n\n5,6,7,8\n'
    rows, lines = read(tmp_path, text, needed=("click", 'd 5"', "c", 'a\n"b"'))
    assert rows == [("1", "2", "3", "4"), ("5", "6", "7", "8")]
    assert lines == [5, 7]


def test_columns_are_found_by_name_in_any_order(tmp_path):
    source = Source("csv", columns=("click", "d", "c"))
    assert read(tmp_path, "c,click,d\nx,1,2\n", source)[0] == [("1", "2", "x")]
    assert read(tmp_path, "c,d\nx,2\n", source, needed=("d", "c"), optional=["click"])[0] == [("2", "x")]
    with pytest.raises(UserError, match=r"header click, d, e; source\.columns says click, d, c"):
        read(tmp_path, "click,d,e\n1,2,x\n", source, needed=("click", "d"))

"""Tests that raw files are read as Python's readers do, with any chunk borders, and that bad lines are named."""

import csv
import gzip
import io
import time

import polars as pl
import pytest

from wukong_jax.data.raw.bad_rows import BadRows
from wukong_jax.data.raw.raw_files import read_raw_rows
from wukong_jax.errors import UserError
from wukong_jax.schema import Source

TSV = Source(format="csv", separator="\t", header=False, columns=("label", "n", "c"))
CSV = Source(format="csv")
LIBFM = Source(format="libfm", columns=("label", "user", "item"), libfm_first_ids=(0, 10))


def read(path, source, needed, chunk_bytes=1 << 20, policy="stop", **options):
    bad_rows = BadRows(policy)
    chunks = list(read_raw_rows(path, source, needed, bad_rows, chunk_bytes=chunk_bytes, **options))
    frame = pl.concat([chunk.frame for chunk in chunks], how="vertical_relaxed")
    lines = [line for chunk in chunks for line in chunk.lines.tolist()]
    assert all(len(chunk.lines) == chunk.frame.height for chunk in chunks)
    return frame, lines, bad_rows


def write(path, text):
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["rows.tsv", "rows.tsv.gz"])
@pytest.mark.parametrize("chunk_bytes", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("last_newline", [True, False])
def test_tsv_equals_csv_module_however_cut(tmp_path, name, chunk_bytes, newline, last_newline):
    rows = [["1", "5", "ab"], ["0", "", 'quo"te'], ["0", "-3", ""], ["", "", ""], ["1", "2", "日本"]] * 5
    text = newline.join("\t".join(row) for row in rows) + (newline if last_newline else "")
    frame, lines, _ = read(write(tmp_path / name, text), TSV, ["label", "n", "c"], chunk_bytes)
    assert [["" if v is None else v for v in row] for row in frame.rows()] == rows
    assert lines == list(range(1, 26))


@pytest.mark.parametrize("chunk_bytes", [1, 20, 1 << 20])
def test_quoted_csv_equals_csv_module_and_counts_lines(tmp_path, chunk_bytes):
    rows = [["a", "b"], ["plain", "1"], ["com,ma", "2"], ["new\nline", "3"], ['quo"te', "4"], ["", "5"], ["end", "6"]]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    path = write(tmp_path / "rows.csv", text.getvalue())
    frame, lines, _ = read(path, CSV, ["a", "b"], chunk_bytes)
    assert frame.fill_null("").rows() == [tuple(row) for row in rows[1:]]
    assert lines == [2, 3, 4, 6, 7, 8]


def test_only_asked_columns_and_byte_order_mark_is_dropped(tmp_path):
    path = write(tmp_path / "rows.csv", "\ufeffa,b,c\n1,2,3\n")
    frame, _, _ = read(path, CSV, ["c", "a"])
    assert frame.to_dicts() == [{"a": "1", "c": "3"}]


def test_strip_and_missing_texts(tmp_path):
    source = Source(format="csv", header=False, columns=("a", "b"), strip=True, missing=("", "?"))
    frame, _, _ = read(write(tmp_path / "rows.csv", "x , ?\n , y z \n"), source, ["a", "b"])
    assert frame.rows() == [("x", None), (None, "y z")]
    unstripped = Source(format="csv", header=False, columns=("a", "b"), missing=("NULL",))
    frame, _, _ = read(write(tmp_path / "more.csv", "NULL,\n, x\n"), unstripped, ["a", "b"])
    assert frame.rows() == [(None, ""), ("", " x")]


def test_numbers_are_typed_where_all_are_numbers(tmp_path):
    path = write(tmp_path / "rows.tsv", "1\t5\tab\n0\t\tcd\n1\tx\tef\n")
    chunks = list(read_raw_rows(path, TSV, ["n", "c"], BadRows(), numbers={"n"}, chunk_bytes=9))
    assert [chunk.frame["n"].to_list() for chunk in chunks] == [[5.0, None], ["x"]]


def test_quotes_do_not_cost_the_type_of_numbers(tmp_path):
    path = write(tmp_path / "rows.csv", 'n,c\n1,"a,b"\n2,c\n')
    frame, _, _ = read(path, CSV, ["n", "c"], numbers={"n"})
    assert frame.rows() == [(1.0, "a,b"), (2.0, "c")]


def test_blank_lines_are_skipped_and_counted_as_lines(tmp_path):
    frame, lines, bad = read(write(tmp_path / "rows.tsv", "1\t2\ta\n\n0\t3\tb\n\r\n\n"), TSV, ["c"])
    assert frame["c"].to_list() == ["a", "b"]
    assert (lines, bad.count) == ([1, 3], 0)


@pytest.mark.parametrize("chunk_bytes", [1, 16, 1 << 20])
@pytest.mark.parametrize("needed", [["label", "n", "c"], ["n"]])
def test_wrong_number_of_columns_is_named_with_its_line(tmp_path, chunk_bytes, needed):
    # One line too short and one too long: their sum is right, so a count over the chunk would not see them.
    path = write(tmp_path / "rows.tsv", "1\t2\ta\n0\t3\n0\t3\ta\tb\n1\t4\tc\n")
    with pytest.raises(UserError, match=r"rows\.tsv, line 2, 2 columns: expected 3; fix the row"):
        read(path, TSV, needed, chunk_bytes)
    frame, lines, bad = read(path, TSV, needed, chunk_bytes, policy="skip")
    assert frame["n"].to_list() == ["2", "4"]
    assert lines == [1, 4]
    assert bad.count == 2
    assert bad.examples == [f"{path}, line 2, 2 columns: expected 3", f"{path}, line 3, 4 columns: expected 3"]


def test_a_trailing_separator_is_a_column_too_many(tmp_path):
    path = write(tmp_path / "rows.tsv", "1\t2\ta\n0\t3\tb\t\n1\t4\n")
    assert read(path, TSV, ["n"], policy="skip")[1] == [1]


def test_text_that_is_not_utf8_is_named(tmp_path):
    path = write(tmp_path / "rows.tsv", b"1\t2\ta\n0\t3\t\xff\n1\t4\tc\n")
    with pytest.raises(UserError, match=r"rows\.tsv, line 2, .*not UTF-8"):
        read(path, TSV, ["c"])
    assert read(path, TSV, ["c"], policy="skip")[1] == [1, 3]


@pytest.mark.parametrize(
    ("name", "data", "source", "message"),
    [
        ("rows.tsv", b"", TSV, "empty file"),
        ("rows.tsv.gz", b"", TSV, "empty"),
        ("rows.tsv.gz", b"1\t2\ta\n", TSV, "not in gzip format"),
        ("rows.tsv.gz", gzip.compress(b"1\t2\ta\n" * 9999)[:-20], TSV, "truncated or damaged .gz"),
        ("rows.csv", b"n,b\n", CSV, "no rows"),
        ("rows.csv", b"a,b\n1,2\n", CSV, "no column 'n'; it has a, b"),
        ("rows.csv", b"n,n\n1,2\n", CSV, "listed twice"),
        ("rows.csv", b'n,b\n1,"2\n3,4\n', CSV, "opened and not closed"),
        ("rows.parquet", b"PAR1 not really", Source(format="parquet"), "not readable as Parquet"),
    ],
)
def test_unreadable_file_is_one_line(tmp_path, name, data, source, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as error:
        read(tmp_path / name, source, ["n"])
    assert message in str(error.value)
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)


def test_absent_file_is_one_line(tmp_path):
    for source in (TSV, Source(format="parquet")):
        with pytest.raises(UserError, match=r"absent.*[Nn]o such file"):
            read(tmp_path / "absent", source, ["n"])


@pytest.mark.parametrize(
    "source",
    [
        Source(format="csv", separator=", "),
        Source(format="csv", header=False),
        Source(format="csv", header=False, columns=("a", "a")),
        Source(format="libfm", columns=("label", "a"), libfm_first_ids=()),
        Source(format="libfm", columns=("label", "a", "b"), libfm_first_ids=(5, 5)),
    ],
)
def test_layout_that_cannot_be_is_refused(tmp_path, source):
    with pytest.raises(UserError, match=r"source\."):
        read(write(tmp_path / "rows", "1,2\n"), source, [])


@pytest.mark.parametrize("chunk_bytes", [1, 1 << 20])
def test_libfm_gives_each_columns_own_index(tmp_path, chunk_bytes):
    path = write(tmp_path / "rows.libfm", "1 3:1 10:1\n-1 0:1 999:1\n")
    frame, lines, _ = read(path, LIBFM, ["label", "user", "item"], chunk_bytes)
    assert frame.rows() == [("1", "3", "0"), ("-1", "0", "989")]
    assert lines == [1, 2]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1 3:2 10:1", r"column 'user' = '3:2': expected 0:1 to 9:1"),
        ("1 3:1 9:1", r"column 'item' = '9:1': expected 10:1 or above, with value 1"),
        ("1 3:1", r"2 columns: expected 3"),
        ("1 3:1 x", r"column 'item' = 'x'"),
    ],
)
def test_bad_libfm_row_is_named(tmp_path, row, message):
    path = write(tmp_path / "rows.libfm", f"1 3:1 10:1\n{row}\n-1 4:1 11:1\n")
    with pytest.raises(UserError, match=rf"rows\.libfm, line 2, {message}"):
        read(path, LIBFM, ["label", "user", "item"])
    assert read(path, LIBFM, ["label", "user", "item"], policy="skip")[1] == [1, 3]


def test_parquet_keeps_types_and_counts_rows(tmp_path):
    table = pl.DataFrame({"n": [1, None, 3] * 50, "c": ["a", None, "b"] * 50, "bag": [["x", "y"], [], None] * 50})
    table.write_parquet(tmp_path / "rows.parquet")
    frame, lines, _ = read(tmp_path / "rows.parquet", Source(format="parquet"), ["n", "bag"], chunk_bytes=320)
    assert frame.equals(table.select("n", "bag"))
    assert lines == list(range(1, 151))
    with pytest.raises(UserError, match=r"no column 'x'; it has n, c, bag"):
        read(tmp_path / "rows.parquet", Source(format="parquet"), ["x"])


def test_labels_may_be_left_out_of_a_headerless_file(tmp_path):
    path = write(tmp_path / "rows.tsv", "2\ta\n3\tb\n")
    frame, _, _ = read(path, TSV, ["n", "c"], optional=["label"])
    assert frame.to_dicts() == [{"n": "2", "c": "a"}, {"n": "3", "c": "b"}]


def test_one_bad_line_costs_no_more_than_a_second_parse(tmp_path):
    """Finding bad lines is vectorised: a file of them must not take Python time per byte."""
    good, bad = b"1\t2\tabcdefgh\n" * 100_000, b"1\t2\n" + b"1\t2\tabcdefgh\n" * 100_000
    seconds = []
    for name, data in (("good.tsv", good), ("bad.tsv", bad)):
        path = write(tmp_path / name, data)
        start = time.perf_counter()
        read(path, TSV, ["c"], policy="skip")
        seconds.append(time.perf_counter() - start)
    assert seconds[1] < 20 * seconds[0] + 0.5

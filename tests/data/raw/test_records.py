"""Tests that rows of text files are found as defined on every input, whatever is malformed and however it is cut."""

import csv
import io

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tests.data.raw.text_twin import read_text
from wukong_jax.data.raw import quoted_records, records
from wukong_jax.data.raw.bad_rows import BadRows
from wukong_jax.data.raw.quoted_records import MAX_QUOTED_BYTES, TextLayout
from wukong_jax.data.raw.raw_files import read_raw_rows
from wukong_jax.errors import UserError
from wukong_jax.schema import Source

NAMES = ("a", "b", "c", "d")
SLOWLY = settings(max_examples=150, deadline=None, derandomize=True)

values = st.text(st.sampled_from('",\n\r\t ab1é日\ufeff'), max_size=6)
malformed = st.text(st.sampled_from('"""",,,\n\n\n\r\t ab1é日\ufeff\0'), max_size=60)
lines_of_three = st.lists(
    st.sampled_from(
        ["1,2,3", '1,"2",3', '1,"2', '1,2",3', '"1,2,3', '1,2,"3', '1,2,3"', '"1,2', '1,a "b" c,3', '"",,""', ""]
    ),
    max_size=12,
).map("\n".join)


def read(folder, text, fields, chunk_bytes, separator=",", numbers=(), suffix=""):
    """Returns rows with their line and the refused lines, as the twin does."""
    path = folder / f"rows{suffix}"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    source = Source("csv", separator=separator, header=False, columns=NAMES[:fields])
    bad = _Refused()
    rows = []
    for chunk in read_raw_rows(
        path, source, NAMES[:fields], bad, numbers=[NAMES[at] for at in numbers], chunk_bytes=chunk_bytes
    ):
        rows += zip(chunk.lines.tolist(), (list(row) for row in chunk.frame.fill_null("").rows()), strict=True)
    return rows, bad.lines


class _Refused(BadRows):
    def __init__(self):
        super().__init__("skip")
        self.lines = []

    def refuse(self, file, line, problem):
        self.lines.append(line)


quoted_at_will = st.tuples(values, st.booleans())


@SLOWLY
@given(
    st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(quoted_at_will, min_size=n, max_size=n), min_size=1)),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.integers(1, 60),
)
def test_well_formed_text_is_read_as_by_the_csv_module(tmp_path_factory, rows, newline, cut, chunk_bytes):
    text = "".join(",".join(_write(value, quote) for value, quote in row) + newline for row in rows)
    text = text.removesuffix(newline) if cut else text
    assume(not text.startswith("\ufeff"))  # a byte order mark
    assume(not read_text(text, TextLayout(b",", len(rows[0]), True), MAX_QUOTED_BYTES)[1])  # lines that could be rows
    reader = csv.reader(io.StringIO(text, newline=""))
    got, refused = read(tmp_path_factory.mktemp("a"), text, len(rows[0]), chunk_bytes)
    assert [row for _, row in got] == [row or [""] for row in reader]  # the module gives [] for a blank line
    assert refused == []


def _write(value, quote):
    needed = set(value) & set('",\r\n') or value == ""
    return '"' + value.replace('"', '""') + '"' if quote or needed else value


@SLOWLY
@given(
    st.one_of(malformed, lines_of_three),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([",", "\t"]),
    st.integers(1, 70),
    st.integers(1, 30),
)
@example('1,"2,3\n4,5,6\n7,8",9\n1,2,3', 3, ",", 1, 1)  # two stray quotes
@example('"5" tv",1\nplain,2\n"7" tv",3\n', 2, ",", 1000, 1000)
@example('a\n\n""\nb', 1, ",", 3, 1)
def test_any_text_is_read_as_defined_however_cut(tmp_path_factory, text, fields, separator, chunk_bytes, cached_bytes):
    assume(text.strip("\r\n") or (fields == 1 and text))
    assume(not text.startswith("\ufeff") and ("\n" in text or "\r" not in text))
    layout = TextLayout(separator.encode(), fields, separator == ",")
    rows, refused, lines = read_text(text, layout, MAX_QUOTED_BYTES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "_CACHED_BYTES", cached_bytes)
        got, got_refused = read(tmp_path_factory.mktemp("a"), text, fields, chunk_bytes, separator)
    assert (got, got_refused) == (rows, refused)
    _assert_all_lines_are_accounted_for(text, got, got_refused, lines, fields)


def _assert_all_lines_are_accounted_for(text, rows, refused, lines, fields):
    joined = sum(value.count("\n") for _, row in rows for value in row)
    blank = sum(line in ("", "\r") for line in text.removesuffix("\n").split("\n")) if fields > 1 else 0
    assert lines - blank <= len(rows) + joined + len(refused) <= lines


@settings(SLOWLY, max_examples=80)
@given(malformed, st.integers(1, 70))
@example('"a\nbb\ncc\nd",1\n"a\nb",2\n', 1)
def test_a_quote_that_is_closed_too_late_is_refused_however_cut(tmp_path_factory, text, chunk_bytes):
    assume(text.strip("\r\n") and not text.startswith("\ufeff") and ("\n" in text or "\r" not in text))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quoted_records, "MAX_QUOTED_BYTES", 8)
        rows, refused, _ = read_text(text, TextLayout(b",", 2, True), 8)
        assert read(tmp_path_factory.mktemp("a"), text, 2, chunk_bytes) == (rows, refused)


@settings(SLOWLY, max_examples=50)
@given(
    st.lists(
        st.sampled_from([None] * 4 + ['"5" tv",{0},x', 'tv "5,{0},"', '{0},"x', '"{0}', "{0},a,b,c"]), max_size=30
    ),
    st.integers(1, 200),
)
def test_skipping_loses_only_the_named_lines(tmp_path_factory, faults, chunk_bytes):
    """Well-quoted rows around faulty ones, each with its own number, are all read."""
    lines = [f'{at},"a, ""b""",c' if fault is None else fault.format(at) for at, fault in enumerate(faults)]
    text = "\n".join(["-1,a,b", *lines])
    got, refused = read(tmp_path_factory.mktemp("a"), text, 3, chunk_bytes)
    good = {at + 2 for at, fault in enumerate(faults) if fault is None} | {1}
    assert good <= {line for line, _ in got}
    assert len(got) + len(refused) == len(lines) + 1


def test_many_quoted_line_ends_are_read_by_threads_as_by_the_csv_module(tmp_path):
    rows = [[str(at), f'text "{at}"\nline, two\r\n' * (at % 3), "x" * (at % 50)] for at in range(60_000)]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    got, refused = read(tmp_path, text.getvalue(), 3, 16 << 20)
    assert ([row for _, row in got], refused) == (rows, [])


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('x,"5" tv,3', r"""a quote \("\) inside a quoted value is not doubled, at 'x,"5" tv,3'"""),
        ('x,y,"', r'a quote \("\) is opened and not closed'),
        ("x,y\rz,3", r"a carriage return alone, at 'x,y\\rz,3'"),
        ("x,y\0,3", "a NUL byte"),
        ('x,"y,3\nz,w",3', r'a quote \("\) joins 2 lines, each of which could be a row of 3 columns'),
        ('x,"y",3,4', "4 columns: expected 3"),
    ],
)
def test_a_bad_line_is_named_with_its_problem(tmp_path, line, problem):
    path = tmp_path / "rows.csv"
    path.write_text(f'a,b,c\n1,"2",3\n{line}\n4,5,6\n', encoding="utf-8", newline="")
    with pytest.raises(UserError, match=rf"rows\.csv, line 3, .*{problem}") as error:
        list(read_raw_rows(path, Source("csv"), ["a", "b", "c"], BadRows()))
    assert "\n" not in str(error.value)


def test_a_quoted_value_whose_lines_are_no_rows_is_read(tmp_path):
    text = '1,"Dear all, good\nmorning, yes",0.5\n'
    assert read(tmp_path, text, 3, 100, numbers=(0, 2))[0] == [(1, [1.0, "Dear all, good\nmorning, yes", 0.5])]
    assert read(tmp_path, text, 3, 100)[1] == [1]

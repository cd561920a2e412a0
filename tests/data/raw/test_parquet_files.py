"""Tests that Parquet columns come as single values or lists of them, and that all else is refused in one line."""

import datetime
import decimal

import polars as pl
import pytest

from wukong_jax.data.raw.bad_rows import BadRows
from wukong_jax.data.raw.raw_files import read_raw_rows
from wukong_jax.errors import UserError
from wukong_jax.schema import Source

PARQUET = Source("parquet")


def read(path, needed=("c",), **options):
    return pl.concat([rows.frame for rows in read_raw_rows(path, PARQUET, needed, BadRows(), **options)])


def write(path, **columns):
    pl.DataFrame(columns).write_parquet(path)
    return path


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pl.Series([{"a": 1}]), "Struct"),
        (pl.Series([b"\xff"]), "Binary"),
        (pl.Series([[b"a"]]), "List.Binary"),
        (pl.Series([[[1]]]), "List.List"),
        (pl.Series([[{"a": 1}]]), "List.Struct"),
        (pl.Series([[[1, 2]]], dtype=pl.Array(pl.Int64, (1, 2))), "Array"),
        (pl.Series([datetime.timedelta(1)]), "Duration"),
        (pl.Series([datetime.time(1)]), "Time"),
    ],
)
def test_a_type_that_no_schema_can_use_is_named(tmp_path, column, kind):
    path = write(tmp_path / "rows.parquet", c=column, d=[1])
    message = rf"rows\.parquet, column 'c', of type {kind}.*wants a number, text, date or"
    with pytest.raises(UserError, match=message) as error:
        read(path, bags={"c"})
    assert "\n" not in str(error.value)
    assert read(path, ["d"])["d"].to_list() == [1]  # only the schema's columns matter


@pytest.mark.parametrize(
    "values",
    [
        [1, None],
        [1.5, None],
        [decimal.Decimal("1.5")],
        [True, None],
        ["a", None],
        pl.Series(["a", "b"], dtype=pl.Categorical),
        pl.Series(["a", "b"], dtype=pl.Enum(["a", "b"])),
        [datetime.date(2024, 1, 1)],
        [datetime.datetime(2024, 1, 1)],
        [["a", "b"], [], None],
        pl.Series([2**64 - 1], dtype=pl.UInt64),
    ],
)
def test_single_values_and_lists_keep_their_type(tmp_path, values):
    path = write(tmp_path / "rows.parquet", c=values)
    assert read(path, bags={"c"}).equals(pl.DataFrame({"c": values}))


def test_arrays_are_lists_and_columns_of_nulls_are_texts(tmp_path):
    array = pl.Series([[1, 2], None], dtype=pl.Array(pl.Int64, 2))
    path = write(tmp_path / "rows.parquet", c=array, d=[None, None], e=pl.Series([[None], None]))
    frame = read(path, ["c", "d", "e"])
    assert frame.schema == {"c": pl.List(pl.Int64), "d": pl.String, "e": pl.List(pl.String)}
    assert frame.rows() == [([1, 2], None, [None]), (None, None, None)]


@pytest.mark.parametrize("column", [[["a"]], pl.Series([[1.5]], dtype=pl.Array(pl.Float64, 1))])
def test_a_list_where_the_schema_wants_one_value_is_named(tmp_path, column):
    path = write(tmp_path / "rows.parquet", c=column)
    with pytest.raises(UserError, match=r"column 'c', of type .*: the schema wants one value per row there"):
        read(path, bags={"d"})


def test_files_that_are_no_whole_parquet_are_named(tmp_path):
    whole = write(tmp_path / "whole.parquet", aa=["x"] * 1000, ab=["y"] * 1000).read_bytes()
    cases = {
        b"": "empty file",
        b"c,d\n1,2\n": "does not start with PAR1",
        b"PAR1": "truncated",
        whole[:-1]: "truncated",
        whole[: len(whole) // 2]: "truncated",
        whole[:4] + b"\0" * 40 + b"PAR1": "not readable as Parquet",
        whole.replace(b"ab", b"aa"): "not readable as Parquet",  # two columns of one name
    }
    for data, message in cases.items():
        (tmp_path / "rows.parquet").write_bytes(data)
        with pytest.raises(UserError, match=rf"rows\.parquet: .*{message}") as error:
            read(tmp_path / "rows.parquet", ["aa"])
        assert str(error.value).isprintable()


def test_no_rows_and_no_columns(tmp_path):
    empty = write(tmp_path / "rows.parquet", c=pl.Series([], dtype=pl.Int64))
    with pytest.raises(UserError, match=r"rows\.parquet: empty file: no rows"):
        read(empty)
    assert list(read_raw_rows(empty, PARQUET, ["c"], BadRows(), allow_empty=True)) == []
    pl.DataFrame().write_parquet(tmp_path / "none.parquet")
    with pytest.raises(UserError, match=r"none\.parquet: no column 'c'"):
        read(tmp_path / "none.parquet")


def test_a_path_is_a_name_and_names_of_folders_are_no_columns(tmp_path):
    folder = tmp_path / "a[1]*" / "year=2024"
    folder.mkdir(parents=True)
    path = write(folder / "part[0].parquet", c=[1])
    assert read(path).rows() == [(1,)]
    with pytest.raises(UserError, match=r"no column 'year'; it has c; the folder year=2024 names it"):
        read(path, ["year"])

"""Tests that the time of rows is found in the forms that logs use, and that the split follows from it."""

import datetime

import polars as pl
import pytest

from tests.data.drafts.draft_rows import draft_frame
from wukong_jax.errors import UserError

ROWS = 400
START = datetime.datetime(2015, 7, 1)
MOMENTS = [START + datetime.timedelta(hours=5 * row) for row in range(ROWS)]


def frame_of(**columns):
    return pl.DataFrame(
        {
            "label": [row * 7 // 3 % 2 for row in range(ROWS)],
            "item": [f"i{row % 9}" for row in range(ROWS)],
            **columns,
        }
    )


@pytest.mark.parametrize(
    ("form", "drafted"),
    [
        ("%Y-%m-%d", None),
        ("%Y-%m-%d %H:%M:%S", None),
        ("%Y-%m-%dT%H:%M:%SZ", None),
        ("%Y-%m-%d %H:%M:%S.%f", None),
        ("%Y-%m-%dT%H:%M:%S+02:00", None),
        ("%y%m%d%H", "%y%m%d%H"),
        ("%Y%m%d", "%Y%m%d"),
        ("%Y%m%d%H", "%Y%m%d%H"),
        ("%Y%m%d%H%M%S", "%Y%m%d%H%M%S"),
        ("%y%m%d", "%y%m%d"),
        ("%m/%d/%Y", "%m/%d/%Y"),
        ("%d/%m/%Y %H:%M", "%d/%m/%Y %H:%M"),
        ("%d.%m.%Y", "%d.%m.%Y"),
        ("%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M:%S"),
        ("%d %B %Y", "%d %B %Y"),
        ("%d-%b-%Y", "%d-%b-%Y"),
    ],
)
def test_form_of_dates_is_found(form, drafted, tmp_path):
    schema = draft_frame(frame_of(at=[moment.strftime(form) for moment in MOMENTS]), tmp_path / "rows.csv").schema
    assert (schema.timestamp, schema.timestamp_format, schema.timestamp_unit) == ("at", drafted, "s")
    assert schema.split.by == "time"


@pytest.mark.parametrize(("unit", "scale"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_unit_of_epochs_is_found(unit, scale, tmp_path):
    values = [int(moment.timestamp()) * scale for moment in MOMENTS]
    schema = draft_frame(frame_of(ts=values), tmp_path / "rows.csv").schema
    assert (schema.timestamp, schema.timestamp_unit) == ("ts", unit)


def test_year_month_and_day_in_three_columns_are_the_time(tmp_path):
    parts = {"arrival_year": "%Y", "arrival_month": "%B", "arrival_day_of_month": "%-d"}
    columns = {name: [moment.strftime(form) for moment in MOMENTS] for name, form in parts.items()}
    schema = draft_frame(frame_of(**columns), tmp_path / "rows.csv").schema
    assert (schema.timestamp_parts, schema.timestamp_format) == (tuple(parts), "%Y %B %d")
    assert "arrival_year" not in {column.name for column in schema.id_columns}


def test_ambiguous_days_and_other_dates_are_named(tmp_path):
    early = [f"{row % 12 + 1:02d}/{row % 11 + 1:02d}/20{row % 20 + 10}" for row in range(ROWS)]
    draft = draft_frame(frame_of(at=early), tmp_path / "rows.csv")
    assert '"%d/%m/%Y"' in next(d.unsure for d in draft.decisions if d.name == "at")
    days = [str(moment.date()) for moment in MOMENTS]
    draft = draft_frame(frame_of(seen=days, time=days, birth_date=days), tmp_path / "rows.csv")
    found = {d.name: d for d in draft.decisions}
    assert draft.schema.timestamp == "time"
    assert "seen" in found["time"].unsure
    assert found["birth_date"].kind == "left out"


def test_incomplete_dates_and_single_days_do_not_split(tmp_path):
    days = [str(moment.date()) for moment in MOMENTS]
    draft = draft_frame(frame_of(at=[None, *days[1:]]), tmp_path / "rows.csv")
    assert (draft.schema.timestamp, draft.schema.split.by) == (None, "random")
    draft = draft_frame(frame_of(at=[days[0]] * 350 + [days[1]] * 50, b=days), tmp_path / "rows.csv", timestamp=("at",))
    assert (draft.schema.timestamp, draft.schema.split.by) == ("at", "random")


def test_given_time_is_checked(tmp_path):
    days = [str(moment.date()) for moment in MOMENTS]
    path = tmp_path / "rows.csv"
    seconds = [1_500_000_000 + 7919 * (row * 37 % ROWS) for row in range(ROWS)]
    assert draft_frame(frame_of(x=seconds), path, timestamp=("x",)).schema.timestamp == "x"
    with pytest.raises(UserError, match="no known form of dates"):
        draft_frame(frame_of(), path, timestamp=("item",))
    with pytest.raises(UserError, match="1 rows have no value"):
        draft_frame(frame_of(at=[None, *days[1:]]), path, timestamp=("at",))
    with pytest.raises(UserError, match="years, one of months"):
        draft_frame(frame_of(at=days), path, timestamp=("at", "item"))


def test_ids_that_are_new_in_the_newest_rows_only_group(tmp_path):
    users = [f"u{row // 20}" for row in range(40 * 120)]
    rows = len(users)
    days = [str((START + datetime.timedelta(hours=row)).isoformat()) for row in range(rows)]
    frame = pl.DataFrame(
        {
            "user": users,
            "time": days,
            "item": [f"i{row % 9}" for row in range(rows)],
            "label": [row * 7 // 3 % 2 for row in range(rows)],
        }
    )
    schema = draft_frame(frame, tmp_path / "rows.csv").schema
    assert schema.group == "user"
    assert [column.name for column in schema.categorical] == ["item"]

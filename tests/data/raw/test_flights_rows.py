"""Tests the rows of the flights: fields against Python's calendar, rows left out, broken inputs, and the real file."""

import datetime

import polars as pl
import pytest

from tests.repository import ROOT as REPOSITORY
from wukong_jax.data.raw.builtin_schemas import load_builtin_schema
from wukong_jax.data.raw.flights_rows import build_flight_rows, convert_flights
from wukong_jax.data.raw.prepare import prepare_data
from wukong_jax.errors import UserError

FLIGHTS = REPOSITORY.parent / "shared/data/flights-3m/flights-3m.parquet"


def make_flights(**changes):
    columns = {
        "date": [datetime.datetime(2001, 1, 1, 0, 1), datetime.datetime(2001, 3, 1, 23, 59)],
        "delay": [15, 16],
        "distance": [49, 2176],
        "origin": ["LAS", "ATL"],
        "destination": ["PHL", "SAV"],
    }
    return pl.DataFrame(columns | changes)


def test_fields_are_those_of_the_calendar():
    flights = make_flights()
    rows = build_flight_rows(flights)
    for flight, row in zip(flights.rows(named=True), rows.rows(named=True), strict=True):
        date = flight["date"]
        assert row == {
            "late": int(flight["delay"] > 15),
            "day_of_year": (date.date() - datetime.date(2000, 12, 31)).days,
            "weekday": date.isoweekday(),
            "hour": date.hour,
            "quarter": (60 * date.hour + date.minute) // 15,
            "minute": date.minute,
            "origin": flight["origin"],
            "destination": flight["destination"],
            "distance_step": flight["distance"] // 50,
            "route": flight["origin"] + "-" + flight["destination"],
            "date": date,
        }
    assert rows["late"].to_list() == [0, 1]


def test_flights_hours_early_are_left_out():
    assert build_flight_rows(make_flights(delay=[-121, -120]))["origin"].to_list() == ["ATL"]


@pytest.mark.parametrize(
    ("flights", "words"),
    [
        (make_flights().drop("delay"), "no column 'delay'"),
        (make_flights(date=["2001-01-01", "2001-01-02"]), "column 'date' is String"),
        (make_flights(origin=["LAS", None]), "row 2: origin is missing"),
    ],
    ids=["column", "type", "value"],
)
def test_another_file_is_refused_in_one_line(tmp_path, flights, words):
    flights.write_parquet(tmp_path / "flights.parquet")
    with pytest.raises(UserError, match=words) as caught:
        convert_flights(tmp_path / "flights.parquet", tmp_path / "rows.parquet")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "rows.parquet").exists()


def test_a_file_that_is_no_parquet_or_exists_is_refused(tmp_path):
    (tmp_path / "flights.parquet").write_text("date,delay\n")
    with pytest.raises(UserError, match="not readable as Parquet"):
        convert_flights(tmp_path / "flights.parquet", tmp_path / "rows.parquet")
    with pytest.raises(UserError, match="exists"):
        convert_flights(tmp_path / "none.parquet", tmp_path / "flights.parquet")


@pytest.mark.skipif(not FLIGHTS.exists(), reason="shared/data/flights-3m is not there")
def test_the_real_file_has_the_rows_that_its_readme_says(tmp_path):
    part = tmp_path / "part.parquet"
    pl.read_parquet(FLIGHTS).gather_every(100).write_parquet(part)
    counts = convert_flights(part, tmp_path / "rows.parquet")
    assert counts["rows"] + counts["left_out"] == 30_000
    assert 0.19 < counts["late"] / counts["rows"] < 0.21  # 19.97 % of all
    prepare_data(load_builtin_schema("flights"), [tmp_path / "rows.parquet"], tmp_path / "blocks")

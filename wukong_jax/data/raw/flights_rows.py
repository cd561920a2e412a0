"""Converts three million US flights (January to June 2001) to one Parquet file: each flight with its calendar fields.

The input is `flights-3m.parquet` of the package vega-datasets: the on-time data of the US Bureau of Transportation
Statistics, with the columns date (to the minute), delay (minutes), distance (miles), origin and destination.

Our own choices: a flight is late if its delay is more than 15 minutes; rows whose delay is below -120 minutes (three
of them, wrong in the source) are left out; miles are cut into steps of 50.
"""

from pathlib import Path

import polars as pl

from wukong_jax.errors import UserError
from wukong_jax.files.whole_files import open_whole
from wukong_jax.messages import first_line

LATE_ABOVE = 15  # minutes
_EARLIEST = -120  # minutes; what is earlier is an error of the source
_MILES = 50
_COLUMNS = ("date", "delay", "distance", "origin", "destination")


def convert_flights(path: str | Path, output: str | Path) -> dict[str, int]:
    """Writes the rows of the schema `flights` to a Parquet file.

    Args:
      path: the Parquet file of the source.
      output: the file to write; it must not exist.

    Returns:
      Number of rows written, of late ones among them, and of rows left out.

    Raises:
      UserError: the input is missing, no Parquet file or without a column, or the output exists.
    """
    output = Path(output)
    if output.exists():
        raise UserError(f"output {output}: exists; remove it or choose another file")
    flights = _read(Path(path))
    rows = build_flight_rows(flights)
    output.parent.mkdir(parents=True, exist_ok=True)
    with open_whole(output, "wb") as file:
        rows.write_parquet(file)
    return {"rows": len(rows), "late": int(rows["late"].sum()), "left_out": len(flights) - len(rows)}


def build_flight_rows(flights: pl.DataFrame) -> pl.DataFrame:
    """Computes label and fields of each flight, in the order of the input.

    Args:
      flights: date (datetime), delay and distance (numbers), origin and destination (text).

    Returns:
      late (1 or 0), day_of_year, weekday (1 is Monday), hour, quarter (of the day's 96 quarters of an hour), minute,
      origin, destination, distance_step (of 50 miles), route ("origin-destination") and date.
    """
    date = pl.col("date")
    return flights.filter(pl.col("delay") >= _EARLIEST).select(
        late=(pl.col("delay") > LATE_ABOVE).cast(pl.Int8),
        day_of_year=date.dt.ordinal_day(),
        weekday=date.dt.weekday(),
        hour=date.dt.hour(),
        quarter=date.dt.hour().cast(pl.Int16) * 4 + date.dt.minute() // 15,
        minute=date.dt.minute(),
        origin="origin",
        destination="destination",
        distance_step=(pl.col("distance") // _MILES).cast(pl.Int32),
        route=pl.concat_str("origin", "destination", separator="-"),
        date=date,
    )


def _read(path: Path) -> pl.DataFrame:
    try:
        flights = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{path}: not readable as Parquet ({first_line(error)}); give flights-3m.parquet") from None
    missing = [name for name in _COLUMNS if name not in flights.columns]
    if missing:
        raise UserError(f"{path}: no column {missing[0]!r}; it has {', '.join(flights.columns)}")
    flights = flights.select(_COLUMNS)
    if not isinstance(flights.schema["date"], pl.Datetime):
        raise UserError(f"{path}: column 'date' is {flights.schema['date']}; expected a time stamp")
    empty = [name for name in _COLUMNS if flights[name].null_count()]
    if empty:
        row = int(flights[empty[0]].is_null().arg_true()[0]) + 1
        raise UserError(f"{path}, row {row}: {empty[0]} is missing; every flight of the source has one")
    return flights

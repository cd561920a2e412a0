"""Convert three million US flights into one Parquet file with a label and calendar fields.

    wukong-jax convert_flights --input=flights-3m.parquet --output=data/flights.parquet

The result has the schema flights. Prints the number of rows, and of late flights among them.
"""

import dataclasses
from typing import Annotated


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The command's flags."""

    input: Annotated[str, "Parquet file of the source, flights-3m.parquet"]
    output: Annotated[str, "Parquet file to write"]


def run(settings: Settings) -> None:
    """Converts the file and prints the rows."""
    from wukong_jax.data.raw.flights_rows import convert_flights

    counts = convert_flights(settings.input, settings.output)
    print(f"{counts['rows']:,} flights, {counts['late']:,} late, {counts['left_out']:,} rows left out")
    print(f"wrote {settings.output}")

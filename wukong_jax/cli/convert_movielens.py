"""Join a MovieLens release into one CSV file of ratings with domains and histories.

    wukong-jax convert_movielens --input=ml-1m --output=data/movielens_1m.csv

Reads 1M, or a release with `ratings.csv`. The result has the schema movielens_1m, or movielens_small for releases with
CSV files. Prints the number of rows of each domain.
"""

import dataclasses
from typing import Annotated, Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The command's flags."""

    input: Annotated[str, "folder of the release"]
    output: Annotated[str, "CSV file to write"]
    order: Annotated[
        Literal["time", "file", "joined"] | None,
        "order of the rows: by time, as in the ratings file, or as in M3oE's joined file (default: time; 1M: joined)",
    ] = None


def run(settings: Settings) -> None:
    """Converts the release and prints the rows of each domain."""
    from wukong_jax.data.raw.movielens_rows import convert_movielens

    for domain, rows in convert_movielens(settings.input, settings.output, settings.order).items():
        print(f"{domain:<12}{rows:>12,} rows")
    print(f"wrote {settings.output}")

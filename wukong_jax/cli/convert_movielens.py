"""Join a MovieLens release to one CSV file of rating rows with domains and histories.

    wukong-jax convert_movielens --input=ml-1m --output=data/movielens_1m.csv

Takes 1M, or a release with `ratings.csv`. The schemas movielens_small (csv releases) and movielens_1m read the result.
Prints the rows of each domain.
"""

import dataclasses
from typing import Annotated, Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The command's flags."""

    input: Annotated[str, "the release's folder"]
    output: Annotated[str, "the CSV file to make"]
    order: Annotated[
        Literal["time", "file", "joined"] | None,
        "of the rows: by time, as in the ratings' file, or as in M3oE's joined file (default: time; for 1M: joined)",
    ] = None


def run(settings: Settings) -> None:
    """Converts, prints."""
    from wukong_jax.data.raw.movielens_rows import convert_movielens

    for domain, rows in convert_movielens(settings.input, settings.output, settings.order).items():
        print(f"{domain:<12}{rows:>12,} rows")
    print(f"wrote {settings.output}")

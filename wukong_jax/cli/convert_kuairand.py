"""Join the logs, users and videos of KuaiRand-Pure to one Parquet file of impressions.

    wukong-jax convert_kuairand --input=KuaiRand-Pure/data --output=data/kuairand_pure.parquet

The schema kuairand_pure reads it. Prints the rows of each tab; M3oE counts 178,087, 2,236,414 and 93,165.
"""

import dataclasses
from typing import Annotated


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The command's flags."""

    input: Annotated[str, "the release's data folder"]
    output: Annotated[str, "the Parquet file to make"]


def run(settings: Settings) -> None:
    """Converts, prints."""
    from wukong_jax.data.raw.kuairand_rows import convert_kuairand

    for tab, rows in convert_kuairand(settings.input, settings.output).items():
        print(f"tab {tab:<4}{rows:>12,} rows")
    print(f"wrote {settings.output}")

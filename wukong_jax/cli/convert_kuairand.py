"""Join the logs, users and videos of KuaiRand-Pure into one Parquet file of impressions.

    wukong-jax convert_kuairand --input=KuaiRand-Pure/data --output=data/kuairand_pure.parquet

The result has the schema kuairand_pure. Prints the number of rows of each tab; the M3oE paper has 178,087, 2,236,414
and 93,165.
"""

import dataclasses
from typing import Annotated


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The command's flags."""

    input: Annotated[str, "data folder of the release"]
    output: Annotated[str, "Parquet file to write"]


def run(settings: Settings) -> None:
    """Converts the release and prints the rows of each tab."""
    from wukong_jax.data.raw.kuairand_rows import convert_kuairand

    for tab, rows in convert_kuairand(settings.input, settings.output).items():
        print(f"tab {tab:<4}{rows:>12,} rows")
    print(f"wrote {settings.output}")

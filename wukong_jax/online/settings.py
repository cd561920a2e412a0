"""Defines the settings of training on a log."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Literal

from wukong_jax.ranges import AtLeast

Period = Literal["hour", "day", "file"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnlineSettings:
    """How a log is cut into periods, and which of its values have rows."""

    period: Annotated[
        Literal["hour", "day", "file"],
        "rows that are scored and then trained on together: of an hour or day (UTC), or of a file",
    ] = "day"
    rows: Annotated[
        int | None, "rows of each table with a vocabulary, including one for all values without a row", AtLeast(2)
    ] = None
    table_rows: Annotated[Mapping[str, int], "rows of single tables, as item=1000,user=5000", AtLeast(2)] = (
        dataclasses.field(default_factory=dict)
    )
    evict: Annotated[
        Literal["least_recent", "least_frequent"], "which values lose their rows to new ones when a table is full"
    ] = "least_recent"
    candidates: Annotated[
        int, "values without a row whose sightings are kept, as a multiple of a table's rows", AtLeast(0)
    ] = 4

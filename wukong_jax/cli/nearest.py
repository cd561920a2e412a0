"""List the values whose embeddings are nearest to a value's, or write all embeddings of a table.

    wukong-jax nearest --artefact=served/mine --table=item --value=a17 --k=10
    wukong-jax nearest --artefact=served/mine --table=item --output=items.parquet

A table is named by the column that owns it, and must have values: a vocabulary's, or an identity column's integers. The
search compares all rows, in pieces, and so takes tables larger than memory. --index searches a graph (HNSW, the extra
nearest), as one would to answer many queries, and says how much of the exact answer it finds.
"""

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Literal

from wukong_jax.cli.flags import MayBeStore
from wukong_jax.errors import UserError
from wukong_jax.idle_options import refuse_idle
from wukong_jax.ranges import AtLeast


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The command's flags."""

    artefact: Annotated[str, "folder that wukong-jax export wrote, or its URL", MayBeStore()]
    table: Annotated[str, "column that owns the table"]
    value: Annotated[str | None, "value whose neighbours to list"] = None
    k: Annotated[int, "number of neighbours, without the value itself", AtLeast(1)] = 10
    similarity: Annotated[Literal["cosine", "inner_product"], "how two embeddings are compared"] = "cosine"
    index: Annotated[bool, "search a graph of the embeddings, and print its recall; needs the extra nearest"] = False
    output: Annotated[str, "Parquet file for all values and embeddings"] = ""

    def __post_init__(self) -> None:
        """Refuses a command that asks for nothing, and flags that nothing follows."""
        if self.value is None and not self.index and not self.output:
            raise UserError("--value: is missing; give a value, or --output=FILE for all embeddings")
        if self.value is None and not self.index:
            for name in ("k", "similarity"):
                refuse_idle(self, name, True, "without --value or --index", "--")


def run(settings: Settings) -> None:
    """Searches, prints and writes."""
    from wukong_jax.serving.nearest import (
        build_index,
        drop_itself,
        measure_recall,
        open_vectors,
        search_exact,
        search_index,
        write_vectors,
    )

    vectors = open_vectors(settings.artefact, settings.table)
    place = None if settings.value is None else vectors.find(settings.value)
    index = None
    if settings.index:
        started = time.perf_counter()
        index = build_index(vectors, settings.similarity)
        seconds = time.perf_counter() - started
        recall, queries = measure_recall(vectors, index, settings.k, settings.similarity)
        print(
            f"index of {len(vectors.values):,} embeddings built in {seconds:.1f} s: finds {recall:.1%} of the exact "
            f"{settings.k} nearest of {queries} values"
        )
    if place is not None:
        asked = (vectors.gather([place]), settings.k + 1, settings.similarity)
        places, found = search_exact(vectors, *asked) if index is None else search_index(index, *asked)
        nearest = drop_itself(place, places[0], found[0], settings.k)
        for other, similarity in nearest:
            value = vectors.values[other]
            print(f"{similarity:8.4f}  {value if value.isprintable() else repr(value)}")
    if settings.output:
        write_vectors(vectors, Path(settings.output))
        print(f"wrote {settings.output}: {len(vectors.values):,} values, {vectors.width} numbers each")

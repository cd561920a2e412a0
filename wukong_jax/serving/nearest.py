"""Finds the values whose rows of an artefact's table are nearest to a value's: items that the model treats alike.

A vector is a row of a table, the embedding of one value: a ranking model has no other vector of an item, since it
scores all columns of a row together. So a table needs values: those of its vocabulary, or the integers of an identity
column. Rows of a hashed table stand for many values, and are refused; row 0, the unknown value, is left out.

`search_exact` reads the mapped table in pieces, so that it may be larger than memory. `build_index` (faiss, the extra
`nearest`) copies it into an HNSW graph, which answers many queries a second and now and then misses a neighbour.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from wukong_jax.errors import UserError
from wukong_jax.files.object_store import is_store_url
from wukong_jax.files.whole_files import whole_file_aside
from wukong_jax.schema import CategoricalColumn, Schema, load_schema
from wukong_jax.serving.artefact import SCHEMA, VOCABULARY, Manifest, check_files, read_manifest
from wukong_jax.serving.stored_artefacts import copy_artefact
from wukong_jax.serving.table_files import map_table, unpack_rows

Similarity = Literal["cosine", "inner_product"]
_CHUNK_ROWS = 1 << 16
_LINKS, _BUILD_WIDTH, _SEARCH_WIDTH = 32, 200, 128  # of the graph: neighbours of a node, candidates of a search
_RECALL_QUERIES = 100


class TableVectors(NamedTuple):
    """The rows of a table that have a value."""

    table: str
    values: Any  # [n] String, a polars Series
    arrays: tuple[np.ndarray, ...]  # of `map_table`; the row of value i is i + 1

    @property
    def width(self) -> int:
        """D, columns of a row."""
        return int(self.arrays[0].shape[1])

    def read(self, start: int, stop: int) -> np.ndarray:
        """Returns the vectors of values `start` to `stop`, [stop - start, D] float32."""
        return unpack_rows(self.arrays, slice(start + 1, min(stop, len(self.values)) + 1))

    def gather(self, places: Sequence[int]) -> np.ndarray:
        """Returns the vectors of some values by their places, [n, D] float32."""
        return unpack_rows(self.arrays, np.asarray(places, np.int64) + 1)

    def find(self, value: str) -> int:
        """Returns the place of a value in `values`, whichever of its texts is given: "7.0" is "7".

        Raises:
          UserError: the table has no row of it.
        """
        import polars as pl

        from wukong_jax.data.raw.canonical_values import canonicalise_texts

        form = canonicalise_texts(pl.Series([value])).item()
        places = (canonicalise_texts(self.values) == form).arg_true()
        if not len(places):
            raise UserError(f"--value = {value!r}: not among the {len(self.values):,} values of {self.table!r}")
        return int(places[0])  # an older version stored "7" and "7.0": the more frequent one, as for scores


def open_vectors(folder: str | Path, table: str) -> TableVectors:
    """Maps a table of an artefact.

    Args:
      folder: the artefact, or its URL on an object store, of which a copy is kept in the user's cache folder.
      table: name of the column that owns the table.

    Returns:
      The rows that have a value.

    Raises:
      UserError: the folder is no artefact, a file is missing or damaged, or the table has no values.
    """
    folder = copy_artefact(str(folder)) if is_store_url(folder) else Path(folder)
    manifest = read_manifest(folder)
    if manifest.kind != "stablehlo":
        raise UserError(f"{folder}: was exported with --format={manifest.kind}, which has no tables; export it without")
    check_files(folder, manifest, tables=False)
    column = _find_column(load_schema(folder / SCHEMA), manifest, table)
    place = [one.name for one in manifest.tables].index(table)
    rows = manifest.tables[place].rows
    values = _read_values(folder, column, rows)
    if len(values) >= rows:
        raise UserError(f"{folder}: {table!r} has {len(values):,} values for {rows - 1:,} rows; export the run again")
    return TableVectors(table, values, map_table(folder, place, manifest.tables[place]))


def search_exact(
    vectors: TableVectors, queries: np.ndarray, count: int, similarity: Similarity
) -> tuple[np.ndarray, np.ndarray]:
    """Compares every vector with the queries.

    Args:
      vectors: the table.
      queries: [q, D] float32.
      count: neighbours of a query; fewer if there are fewer vectors.
      similarity: how two vectors are compared. The cosine with a vector of zeros is 0.

    Returns:
      [q, count] places, nearest first and of equal ones the lowest first, and [q, count] float32 similarities.
    """
    total = len(vectors.values)
    best = [(np.zeros(0, np.int64), np.zeros(0, np.float32)) for _ in queries]
    for start in range(0, total, _CHUNK_ROWS):
        stop = min(start + _CHUNK_ROWS, total)
        found = scale_vectors(queries, similarity) @ scale_vectors(vectors.read(start, stop), similarity).T
        for query, values in enumerate(found):
            places = np.concatenate([best[query][0], np.arange(start, stop)])
            best[query] = _keep_best(places, np.concatenate([best[query][1], values]), count)
    shape = (len(queries), min(count, total))
    return np.array([places for places, _ in best]).reshape(shape), np.array([found for _, found in best]).reshape(
        shape
    )


def scale_vectors(vectors: np.ndarray, similarity: Similarity) -> np.ndarray:
    """Returns [n, D] float32 vectors whose inner products are the similarities."""
    if similarity == "inner_product":
        return vectors
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def build_index(vectors: TableVectors, similarity: Similarity) -> Any:
    """Builds a graph (HNSW) over all vectors, in memory: 4 D bytes a vector, and about 300 for its links.

    Args:
      vectors: the table.
      similarity: how two vectors are compared.

    Returns:
      A `faiss.IndexHNSWFlat`; its ids are places in `vectors.values`.

    Raises:
      UserError: the extra is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise UserError(f"--index: {error.name} is not installed; install wukong-jax[nearest]") from None
    index = faiss.IndexHNSWFlat(vectors.width, _LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = _BUILD_WIDTH
    for start in range(0, len(vectors.values), _CHUNK_ROWS):
        index.add(scale_vectors(vectors.read(start, start + _CHUNK_ROWS), similarity))
    return index


def search_index(index: Any, queries: np.ndarray, count: int, similarity: Similarity) -> tuple[np.ndarray, np.ndarray]:
    """Searches an index of `build_index`; arguments and results are those of `search_exact`.

    A place of -1 is a neighbour that the search did not find.
    """
    index.hnsw.efSearch = max(_SEARCH_WIDTH, 2 * count)
    found, places = index.search(scale_vectors(queries, similarity), min(count, index.ntotal))
    return places, found


def measure_recall(vectors: TableVectors, index: Any, count: int, similarity: Similarity) -> tuple[float, int]:
    """Returns the share of exact neighbours that an index finds, and of how many values they are."""
    queries = np.unique(np.linspace(0, len(vectors.values) - 1, _RECALL_QUERIES).astype(int))
    rows = vectors.gather(queries.tolist())
    wanted, _ = search_exact(vectors, rows, count, similarity)
    found, _ = search_index(index, rows, count, similarity)
    shared = sum(len(np.intersect1d(one, other)) for one, other in zip(wanted, found, strict=True))
    return shared / wanted.size, len(queries)


def drop_itself(place: int, places: np.ndarray, similarities: np.ndarray, count: int) -> list[tuple[int, float]]:
    """Returns up to `count` (place, similarity) of a query's neighbours, without the value that was asked for."""
    pairs = zip(places.tolist(), similarities.tolist(), strict=True)
    return [pair for pair in pairs if pair[0] not in (place, -1)][:count]


def write_vectors(vectors: TableVectors, path: Path) -> None:
    """Writes a Parquet file with columns `value` (text) and `vector` (D float32), in the order of the rows.

    Raises:
      UserError: the file cannot be written.
    """
    import polars as pl

    rows = vectors.read(0, len(vectors.values))
    frame = pl.DataFrame(
        {"value": vectors.values, "vector": pl.Series(rows, dtype=pl.Array(pl.Float32, rows.shape[1]))}
    )
    aside = whole_file_aside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.write_parquet(aside)
        aside.replace(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UserError(f"--output = {path}: cannot write ({error}); give another file") from None
    finally:
        aside.unlink(missing_ok=True)


def _keep_best(places: np.ndarray, similarities: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Keeps the largest similarities, in order; of equal ones the lowest places."""
    if len(places) > count:
        least = np.partition(similarities, len(places) - count)[len(places) - count]
        kept = np.flatnonzero(similarities >= least)  # all that are equal to the last one, too
        places, similarities = places[kept], similarities[kept]
    order = np.lexsort((places, -similarities))[:count]
    return places[order], similarities[order]


def _find_column(schema: Schema, manifest: Manifest, table: str) -> CategoricalColumn:
    columns = {column.name: column for column in schema.id_columns}
    owners = [columns[one.name] for one in manifest.tables if one.name in columns]
    known = ", ".join(column.name for column in owners if column.encoding != "hash") or "none has values"
    column = columns.get(table)
    if column is None or (column.vocabulary_of is None and column not in owners):
        raise UserError(f"--table = {table!r}: the artefact has no such table; give one of: {known}")
    if column.vocabulary_of is not None:
        raise UserError(f"--table = {table!r}: reads the table of {column.vocabulary_of!r}; give that one")
    if column.encoding == "hash":
        raise UserError(f"--table = {table!r}: is hashed, and a row stands for many values; give one of: {known}")
    return column


def _read_values(folder: Path, column: CategoricalColumn, rows: int) -> Any:
    try:
        import polars as pl
    except ImportError:
        raise UserError("polars: is not installed, and values need it; install polars") from None
    from wukong_jax.data.raw.vocabulary import load_vocabulary

    if column.encoding == "identity":
        return pl.int_range(rows - 1, eager=True).cast(pl.String)
    return load_vocabulary(folder / VOCABULARY, column.name).values

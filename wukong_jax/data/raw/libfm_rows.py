"""Decodes the fields of libfm rows, `index:1`, to the index within its column."""

from pathlib import Path

import numpy as np
import polars as pl

from wukong_jax.data.raw.bad_rows import BadRows
from wukong_jax.schema import Source


def decode_libfm(
    frame: pl.DataFrame, lines: np.ndarray, source: Source, path: Path, bad_rows: BadRows
) -> tuple[pl.DataFrame, np.ndarray]:
    """Converts `index:1` to the index within its column, as text.

    Args:
      frame: the fields as text.
      lines: [rows] int64, line numbers.
      source: the file's layout.
      path: the file, for messages.
      bad_rows: receives rows with another form or an index outside its column.

    Returns:
      The other rows and their line numbers.

    Raises:
      UserError: a row is bad and the policy is "stop".
    """
    features = source.columns[1:]
    ends = (*source.libfm_first_ids[1:], None)
    keep = np.ones(len(lines), bool)
    columns = [frame[source.columns[0]]] if source.columns[0] in frame.columns else []
    for name, first, end in zip(features, source.libfm_first_ids, ends, strict=True):
        texts = frame[name].fill_null("")
        indices = texts.str.extract(r"^(\d+):1$").cast(pl.Int64, strict=False)
        inside = (indices >= first) & (indices < end) if end is not None else indices >= first
        for row in np.flatnonzero(~inside.fill_null(False).to_numpy() & keep):
            limit = f"{first}:1 to {end - 1}:1" if end is not None else f"{first}:1 or above, with value 1"
            bad_rows.refuse(path, int(lines[row]), f"column {name!r} = {texts[int(row)]!r}: expected {limit}")
            keep[row] = False
        columns.append((indices - first).cast(pl.String).alias(name))
    decoded = pl.DataFrame(columns)
    return (decoded, lines) if keep.all() else (decoded.filter(pl.Series(keep)), lines[keep])

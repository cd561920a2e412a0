"""Parses records of CSV text with polars, as frames of texts, or of numbers where all values are numbers.

Whether a value is missing, and which number it is, does not depend on whether it is quoted or which rows are parsed
with it: parsed as a number or as a text, the same texts are numbers, and blanks around them are left out.
"""

from collections.abc import Collection
from contextlib import suppress

import polars as pl

from wukong_jax.schema import Source

_BYTE_ORDER_MARK = "\ufeff".encode()
_BLANKS = " \t"  # what polars leaves out before numbers


def parse_csv(
    text: bytes, names: tuple[str, ...], numbers: Collection[str], source: Source, *, quoted: bool
) -> pl.DataFrame | None:
    """Parses records, each with a field for every name.

    Args:
      text: the records; quotes are only as RFC 4180 has them.
      names: names of the columns.
      numbers: columns to parse as float64.
      source: the file's layout.
      quoted: whether values may be quoted.

    Returns:
      The frame, in which missing values are null; None if polars refuses the text.
    """
    typed = dict.fromkeys(names, pl.String()) | {name: pl.Float64() for name in names if name in numbers}
    blank_rows = len(names) == 1 and "" not in source.missing  # which polars takes for missing
    by_polars = [] if source.strip or blank_rows else [text for text in source.missing if text and '"' not in text]
    frame = None
    with suppress(pl.exceptions.PolarsError):
        frame = pl.read_csv(
            # polars drops a byte order mark in front, which is data here.
            _BYTE_ORDER_MARK + text if text.startswith(_BYTE_ORDER_MARK) else text,
            has_header=False,
            schema=typed,
            separator=source.separator if source.format == "csv" else " ",
            quote_char='"' if quoted else None,
            null_values=by_polars or None,
            empty_string_is_null="" in source.missing and not source.strip,
        )
    if frame is None:
        return None
    if source.strip:
        stripped = pl.all().str.strip_chars()
        return frame.select(pl.when(~stripped.is_in(list(source.missing))).then(stripped))
    texts = [name for name in names if name not in numbers]
    if blank_rows:
        frame = frame.fill_null("")
    left = [value for value in source.missing if value and value not in by_polars]
    if "" in source.missing and quoted and b'""' in text:  # polars takes a quoted empty value for a text
        left.append("")
    return frame.with_columns(pl.when(~pl.col(texts).is_in(left)).then(pl.col(texts))) if left and texts else frame


def may_be_typed(source: Source) -> bool:
    """Whether numbers may be parsed as such.

    Polars then takes blanks for missing, and " 1" for a number even if "1" is missing.
    """
    texts = pl.Series(list(source.missing), dtype=pl.String).str.strip_chars(_BLANKS)
    numbers = texts.cast(pl.Float64, strict=False).fill_nan(None)
    return not source.strip and "" in source.missing and numbers.null_count() == len(texts)


def strip_numbers(frame: pl.DataFrame, numbers: Collection[str], source: Source) -> pl.DataFrame:
    """Leaves out the blanks around the texts of number columns, as parsing them as numbers does."""
    names = [name for name in frame.columns if name in numbers]
    if not names or source.strip:
        return frame
    stripped = pl.col(names).str.strip_chars(_BLANKS)
    return frame.with_columns(pl.when(~stripped.is_in(list(source.missing))).then(stripped))

"""Reads texts of exactly 8 bytes, such as the 8 hexadecimal digits that most logs of clicks have as values, as words.

A word can be hashed without joining the texts, in two thirds of the time; the hash is the same.
"""

import dataclasses

import numpy as np
import polars as pl

_BYTES = 8
_SAMPLE = 256
_ONES = np.uint64(0x0101010101010101)
_HIGH_BITS = np.uint64(0x8080808080808080)


@dataclasses.dataclass(frozen=True)
class Words:
    """Texts as words."""

    values: np.ndarray  # [n] uint64, first byte lowest; 0 where the text is null or has another length
    others: np.ndarray  # positions of texts of another length, ascending


def read_words(texts: pl.Series) -> Words | None:
    """Reads texts as words.

    Args:
      texts: [n] String.

    Returns:
      The words; None if fewer than half of the first texts have 8 bytes, or if there is a text of 8 NUL bytes.
    """
    lengths = texts.head(_SAMPLE).str.len_bytes().drop_nulls()
    if 2 * int((lengths == _BYTES).sum()) <= len(lengths):
        return None
    read = texts.cast(pl.Binary).bin.reinterpret(dtype=pl.UInt64, endianness="little")
    unread = read.null_count()
    values = (read.fill_null(0) if unread else read).to_numpy()
    if np.count_nonzero(values) != len(values) - unread:
        return None
    others = np.zeros(0, np.int64)
    if unread != texts.null_count():
        others = np.flatnonzero((read.is_null() & texts.is_not_null()).to_numpy())
    return Words(values, others)


def may_change_words(words: np.ndarray) -> bool:
    """Returns False only if no text among these words, [n] uint64, has another canonical form than itself.

    Of texts of 8 bytes, only integers with a zero fraction have one: they end with "0" and have a ".".
    """
    ends = words[words >> np.uint64(56) == ord("0")]
    dots = ends ^ (_ONES * np.uint64(ord(".")))
    return bool(((dots - _ONES) & ~dots & _HIGH_BITS).any())

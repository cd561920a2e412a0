"""Which of train, validation and test a row belongs to."""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from wukong_jax.data.raw.stable_hash import hash_uniform
from wukong_jax.schema import Split

TRAIN, VALIDATION, TEST = 0, 1, 2  # positions in row_blocks.SPLITS

_DIGIT_BITS = 16
_SIGN = np.uint64(1 << 63)


@dataclasses.dataclass(frozen=True)
class SplitRule:
    """A split, with the cuts that only the whole data can tell."""

    split: Split
    validation_start: int = 0  # order: row; time: second
    test_start: int = 0

    def assign(self, positions: np.ndarray, timestamps: np.ndarray, file_split: int) -> np.ndarray:
        """The split of each row.

        Args:
          positions: [n] int64, of each row among all rows that are kept, in input order.
          timestamps: [n] int64 seconds, used by "time".
          file_split: the split of the rows' file, used by "file".

        Returns:
          [n] uint8 of TRAIN, VALIDATION or TEST.
        """
        split = self.split
        if split.by in ("order", "time"):
            keys = positions if split.by == "order" else timestamps
            return (keys >= self.validation_start).astype(np.uint8) + (keys >= self.test_start)
        assigned = np.full(len(positions), file_split if split.by == "file" else TRAIN, np.uint8)
        if split.by == "random":
            uniform = hash_uniform(positions, split.seed)
            assigned[uniform < split.validation_fraction + split.test_fraction] = VALIDATION
            assigned[uniform < split.test_fraction] = TEST
        elif file_split == TEST and split.validation_share_of_test:
            assigned[hash_uniform(positions, split.seed) < split.validation_share_of_test] = VALIDATION
        return assigned


def build_split_rule(split: Split, rows: int, timestamps: Callable[[], Iterable[np.ndarray]]) -> SplitRule:
    """Finds the cuts of a split by order or time; rows of one second stay together, on the later side of a cut.

    Args:
      split: of the schema.
      rows: of the whole data.
      timestamps: called for each pass over all rows' seconds, chunks of [n] int64.

    Returns:
      The rule.
    """
    if split.by not in ("order", "time"):
        return SplitRule(split)
    cuts = [
        round(rows * (1 - split.validation_fraction - split.test_fraction)),
        round(rows * (1 - split.test_fraction)),
    ]
    if split.by == "order":
        return SplitRule(split, *cuts)
    after_last = np.iinfo(np.int64).max
    starts = [select_kth(timestamps, cut) if cut < rows else after_last for cut in cuts]
    return SplitRule(split, *starts)


def select_kth(chunks: Callable[[], Iterable[np.ndarray]], k: int) -> int:
    """The k-th smallest (from 0) of numbers too many to hold, by four passes of 16 bits each.

    Args:
      chunks: called for each pass; chunks of [n] int64.
      k: below the number of values.

    Returns:
      The value.
    """
    prefix = 0
    for shift in range(64 - _DIGIT_BITS, -1, -_DIGIT_BITS):
        counts = np.zeros(1 << _DIGIT_BITS, np.int64)
        for chunk in chunks():
            keys = chunk.astype(np.int64).view(np.uint64) ^ _SIGN
            if shift + _DIGIT_BITS < 64:
                keys = keys[keys >> np.uint64(shift + _DIGIT_BITS) == np.uint64(prefix)]
            digits = (keys >> np.uint64(shift)) & np.uint64((1 << _DIGIT_BITS) - 1)
            counts += np.bincount(digits.astype(np.int64), minlength=1 << _DIGIT_BITS)
        digit = int(np.searchsorted(np.cumsum(counts), k, side="right"))
        k -= int(counts[:digit].sum())
        prefix = (prefix << _DIGIT_BITS) | digit
    return prefix - (1 << 63)

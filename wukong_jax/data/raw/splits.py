"""Assigns rows to the train, validation and test splits."""

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
    """A split with its cut points, which depend on the whole data."""

    split: Split
    validation_start: int = 0  # by order: first row; by time: first second
    test_start: int = 0

    def assign(self, positions: np.ndarray, timestamps: np.ndarray, file_split: int) -> np.ndarray:
        """Returns the split of each row.

        Args:
          positions: [n] int64, position of each row among all kept rows, in input order.
          timestamps: [n] int64 seconds; used by a split by time.
          file_split: the split of the rows' file; used by a split by file.

        Returns:
          [n] uint8, each TRAIN, VALIDATION or TEST.
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


def _keep(counts: np.ndarray) -> np.ndarray:
    return counts


def build_split_rule(
    split: Split,
    rows: int,
    timestamps: Callable[[], Iterable[np.ndarray]],
    add_up: Callable[[np.ndarray], np.ndarray] = _keep,
) -> SplitRule:
    """Finds the cut points of a split by order or time; rows of the same second stay together, after the cut.

    Args:
      split: the schema's split.
      rows: number of rows in the whole data.
      timestamps: returns all rows' timestamps as chunks of [n] int64 seconds; called once per pass.
      add_up: see `select_kth`.

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
    starts = [select_kth(timestamps, cut, add_up) if cut < rows else after_last for cut in cuts]
    return SplitRule(split, *starts)


def select_kth(
    chunks: Callable[[], Iterable[np.ndarray]], k: int, add_up: Callable[[np.ndarray], np.ndarray] = _keep
) -> int:
    """Finds the k-th smallest number (from 0) without holding all numbers in memory, in four passes of 16 bits each.

    Args:
      chunks: returns the numbers as chunks of [n] int64; called once per pass.
      k: the index, less than the number of values.
      add_up: adds the counts of all processes, if each passes a part of the numbers.

    Returns:
      The k-th smallest number.
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
        counts = add_up(counts)
        digit = int(np.searchsorted(np.cumsum(counts), k, side="right"))
        k -= int(counts[:digit].sum())
        prefix = (prefix << _DIGIT_BITS) | digit
    return prefix - (1 << 63)

"""Counts what preparation needs to know of the training rows: their values, domains, means and deviations."""

from collections.abc import Iterable, Mapping

import numpy as np

from wukong_jax.data.raw.numeric_transforms import ChunkMoments, RunningMoments
from wukong_jax.data.raw.row_encoder import EncodedRows
from wukong_jax.schema import Schema


class TrainingCounts:
    """Sums over training rows with provisional codes."""

    def __init__(self, schema: Schema) -> None:
        """Creates counts of zero rows.

        Args:
          schema: schema of the raw files.
        """
        self._slots = [
            (start, stop, column.vocabulary)
            for column, start, stop in schema.slot_ranges()
            if any(c.name == column.vocabulary and c.encoding == "vocabulary" for c in schema.id_columns)
        ]
        self._standardised = [i for i, column in enumerate(schema.dense) if column.transform == "standardise"]
        self._moments = RunningMoments(len(self._standardised))
        self._has_domain = schema.domain is not None
        self.rows = 0
        self.values: dict[str, np.ndarray] = {name: np.zeros(0, np.int64) for _, _, name in self._slots}  # by code
        self.domains: set[int] = set()  # codes

    @property
    def array_names(self) -> set[str]:
        """The arrays of encoded rows that `add` reads."""
        names = {"ids": self._slots, "dense": self._standardised, "domain": self._has_domain}
        return {name for name, used in names.items() if used}

    def add(self, encoded: EncodedRows, train: np.ndarray) -> None:
        """Adds the rows where the mask `train`, [rows] bool, is true."""
        rows = slice(None) if train.all() else np.flatnonzero(train)
        self.rows += int(np.count_nonzero(train))
        for start, stop, vocabulary in self._slots:
            for codes in encoded.arrays["ids"][start:stop]:
                self.values[vocabulary] = _add_counts(self.values[vocabulary], codes[rows])
        if self._standardised:
            self._moments.add(encoded.arrays["dense"][rows][:, self._standardised])
        if self._has_domain:
            self.domains.update(np.unique(encoded.arrays["domain"][rows]).tolist())

    @property
    def chunks(self) -> list[ChunkMoments]:
        """Moments of the chunks so far, in their order."""
        return self._moments.chunks

    def replace_moments(self, chunks: Iterable[ChunkMoments]) -> None:
        """Takes the moments of other chunks instead of its own."""
        self._moments = RunningMoments(len(self._standardised))
        for chunk in chunks:
            self._moments.merge(chunk)

    def moments(self) -> Mapping[int, tuple[float, float]]:
        """Returns (mean, standard deviation) by the position of each dense column that is to be standardised."""
        return {index: self._moments.column(at) for at, index in enumerate(self._standardised)}


def _add_counts(counts: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Adds the occurrences of each code of at least 0 to the counts, which grow as needed."""
    largest = int(codes.max(initial=-1))
    if largest >= len(counts):
        counts = np.concatenate([counts, np.zeros(max(largest + 1, 2 * len(counts)) - len(counts), np.int64)])
    present = codes[codes >= 0] if codes.min(initial=0) < 0 else codes
    np.add.at(counts, present, 1)
    return counts

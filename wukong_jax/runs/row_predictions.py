"""Writes labels and predicted probabilities of the rows of a split to a CSV file, one line a row.

The columns are `row`, the position in the split from 0; `domain`, if the schema has domains; for each objective
`<objective>/label`, empty where it was not observed, and `<objective>/score`; and `weight`, if the schema has one.
Rows of a split keep the order of the raw files, so a split by file has the rows of its files in order. Where several
processes evaluate, batches take rows of several ranges of the split. Lines of the first are written at once; those
of the others wait in a file without a name, which vanishes with the process, and are written in order at the end.
"""

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from scipy.special import expit

from wukong_jax.data.blocks.batch import Batch
from wukong_jax.errors import UserError
from wukong_jax.files.csv_text import quote_csv
from wukong_jax.files.whole_files import open_whole
from wukong_jax.schema import Schema


class RowPredictions:
    """Context manager that writes the file, which appears when the body ends without an error."""

    def __init__(self, path: Path, schema: Schema, starts: Sequence[int]) -> None:
        """Sets up the writer.

        Args:
          path: the CSV file; its folder is created if missing.
          schema: resolved schema of the rows.
          starts: first row of each range of the split that a batch takes as many rows of, and the number of rows; [0,
            rows] if batches are in order. What follows the rows of a range in the last batches is padding.
        """
        self._path, self._schema, self._starts = path, schema, starts
        self._domains = [quote_csv(value) for value in schema.domain_values]
        self._taken = 0  # rows of each range
        self._waiting: list[list[tuple[int, int]]] = [
            [] for _ in starts[1:]
        ]  # (place, bytes) of the lines of each range
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        schema = self._schema
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = self._stack.enter_context(open_whole(self._path))
            if len(self._waiting) > 1:
                self._aside = self._stack.enter_context(tempfile.TemporaryFile(dir=self._path.parent))
                self._stack.push(self._write_waiting)
        except OSError as error:
            raise self._describe(error) from None
        self._file = file
        objectives = [f"{label.name}/{part}" for label in schema.labels for part in ("label", "score")]
        domain, weight = ["domain"] if schema.domain else [], ["weight"] if schema.weight else []
        file.write(",".join(map(quote_csv, ["row", *domain, *objectives, *weight])) + "\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stack.__exit__(kind, error, trace)
        except OSError as failure:
            raise self._describe(failure) from None

    def write(self, batch: Batch, logits: Any) -> None:
        """Writes the rows of a batch.

        Args:
          batch: the next batch of the split: as many rows of each range, in order.
          logits: its logits [B, O].

        Raises:
          UserError: the file cannot be written.
        """
        each = len(batch.weight) // len(self._waiting)
        scores = expit(np.asarray(logits, np.float64))
        try:
            for number, waiting in enumerate(self._waiting):
                first = self._starts[number] + self._taken
                count = min(self._starts[number + 1] - first, each)
                if count <= 0:
                    continue
                text = self._format_rows(batch, scores, number * each, count, first)
                if number == 0:
                    self._file.write(text)
                else:
                    encoded = text.encode("utf-8")
                    waiting.append((self._aside.tell(), len(encoded)))
                    self._aside.write(encoded)
        except OSError as error:
            raise self._describe(error) from None
        self._taken += each

    def _format_rows(self, batch: Batch, scores: np.ndarray, place: int, count: int, first: int) -> str:
        """Returns the lines of `count` rows from `place` in a batch, which are rows `first` onwards of the split."""
        rows = slice(place, place + count)
        columns: list[list[str]] = [list(map(str, range(first, first + count)))]
        if self._schema.domain:
            columns.append([self._domains[domain] for domain in batch.domain[rows].tolist()])
        for label in range(len(self._schema.labels)):
            labels, mask = batch.labels[rows, label].tolist(), batch.label_mask[rows, label].tolist()
            columns.append([_format(value) if seen else "" for value, seen in zip(labels, mask, strict=True)])
            columns.append(list(map(repr, scores[rows, label].tolist())))
        if self._schema.weight:
            columns.append(list(map(_format, batch.weight[rows].tolist())))
        return "".join(",".join(line) + "\n" for line in zip(*columns, strict=True))

    def _write_waiting(self, kind: type[BaseException] | None, error: Any, trace: Any) -> None:
        """Writes the lines of the ranges after the first; called when the body has ended."""
        if kind is not None:
            return
        for waiting in self._waiting[1:]:
            for place, size in waiting:
                self._aside.seek(place)
                self._file.write(self._aside.read(size).decode("utf-8"))

    def _describe(self, error: OSError) -> UserError:
        return UserError(f"--predictions = {self._path}: {error.strerror}; give a writable file")


def _format(number: float) -> str:
    return str(int(number)) if number == int(number) else repr(number)

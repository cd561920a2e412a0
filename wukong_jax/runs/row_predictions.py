"""Writes labels and predicted probabilities of the rows of a split to a CSV file, one line a row.

The columns are `row`, the position in the split from 0; `domain`, if the schema has domains; for each objective
`<objective>/label`, empty where it was not observed, and `<objective>/score`; and `weight`, if the schema has one.
Rows of a split keep the order of the raw files, so a split by file has the rows of its files in order.
"""

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

    def __init__(self, path: Path, schema: Schema, rows: int) -> None:
        """Sets up the writer.

        Args:
          path: the CSV file; its folder is created if missing.
          schema: resolved schema of the rows.
          rows: rows of the split; what follows them in the last batch is padding.
        """
        self._path, self._schema, self._rows = path, schema, rows
        self._domains = [quote_csv(value) for value in schema.domain_values]
        self._written = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        schema = self._schema
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = self._stack.enter_context(open_whole(self._path))
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
          batch: the next batch of the split, in order.
          logits: its logits [B, O].

        Raises:
          UserError: the file cannot be written.
        """
        first, count = self._written, min(self._rows - self._written, len(batch.weight))
        columns: list[list[str]] = [list(map(str, range(first, first + count)))]
        if self._schema.domain:
            columns.append([self._domains[domain] for domain in batch.domain[:count].tolist()])
        scores = expit(np.asarray(logits, np.float64)[:count])
        for place in range(len(self._schema.labels)):
            labels, mask = batch.labels[:count, place].tolist(), batch.label_mask[:count, place].tolist()
            columns.append([_format(label) if seen else "" for label, seen in zip(labels, mask, strict=True)])
            columns.append(list(map(repr, scores[:, place].tolist())))
        if self._schema.weight:
            columns.append(list(map(_format, batch.weight[:count].tolist())))
        try:
            self._file.writelines(",".join(line) + "\n" for line in zip(*columns, strict=True))
        except OSError as error:
            raise self._describe(error) from None
        self._written += count

    def _describe(self, error: OSError) -> UserError:
        return UserError(f"--predictions = {self._path}: {error.strerror}; give a writable file")


def _format(number: float) -> str:
    return str(int(number)) if number == int(number) else repr(number)

"""A finished (or interrupted) run opened for scoring: its metrics, its splits, and new rows."""

import dataclasses
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars as pl

from wukong_jax.config import ExchangeConfig, MeshConfig, RunConfig
from wukong_jax.data.blocks.batch import Batch
from wukong_jax.errors import UserError
from wukong_jax.runs.checkpoints import Checkpoints, restore_best
from wukong_jax.runs.evaluation import (
    Predict,
    build_predict,
    collect_rows,
    evaluate_state,
    find_split,
    predict_batches,
    read_in_order,
)
from wukong_jax.runs.folder import RunFolder
from wukong_jax.runs.record import read_metrics
from wukong_jax.runs.rows import RunData, open_run_data, prepared_directory
from wukong_jax.runs.scoring import encode_rows, score_rows
from wukong_jax.schema import Schema
from wukong_jax.training.run import Run, build_run
from wukong_jax.training.state import TrainState

Rows = pl.DataFrame | Mapping[str, Any] | str | Path | Any  # Any: a pandas frame, which need not be installed


@dataclasses.dataclass(frozen=True)
class OpenRun:
    """A run's parts, its rows, and the state it is judged by."""

    run: Run
    data: RunData
    state: TrainState
    folder: Path | None = None  # where the run lies; None for one that was put together in memory

    @property
    def config(self) -> RunConfig:
        """The run's config; its mesh and exchange are those of this process, whatever it was trained on."""
        return self.run.config

    @property
    def schema(self) -> Schema:
        """What the run's rows are, resolved."""
        return self.run.schema

    @property
    def predict_batch(self) -> Predict:
        """The function from a batch on devices to logits [B, O] float32."""
        return build_predict(self.run, self.state)

    def evaluate(self, split: str = "test") -> dict[str, float]:
        """Scores one split of the run's rows.

        Returns:
          Metric -> value, named as in `metrics.jsonl`.

        Raises:
          UserError: the data has no such split.
        """
        return evaluate_state(self.run, self.data, self.state, split).metrics

    def predict(self, rows: Rows) -> np.ndarray:
        """Scores rows, each one whatever its weight.

        Args:
          rows: a polars or pandas frame, a mapping of columns, or the path of a raw file, with the columns of the
            run's raw training files; those of labels, timestamp, group and weight may be missing. They are encoded by
            the run's schema and vocabularies.

        Returns:
          Probabilities [rows, O] float64, in the order of the rows; objectives in the order of `schema.labels`.

        Raises:
          UserError: a column is missing, or a value cannot be read.
        """
        return np.concatenate([np.zeros((0, len(self.schema.labels))), *self.predict_parts(rows)])

    def predict_parts(self, rows: Rows) -> Iterator[np.ndarray]:
        """Yields what `predict` returns batch by batch, for more rows than fit the memory at once."""
        return score_rows(self.run, self.predict_batch, encode_rows(self.schema, self.data, rows))

    def metrics(self) -> pl.DataFrame:
        """The lines of `metrics.jsonl`, a row a line; a metric that a line lacks is null.

        Raises:
          UserError: the run lies in no folder, or a line cannot be read.
        """
        if self.folder is None:
            raise UserError("metrics: this run lies in no folder, so it has no metrics.jsonl")
        return pl.from_dicts(read_metrics(RunFolder(self.folder).metrics), infer_schema_length=None)

    def read_split(self, split: str) -> Iterator[Batch]:
        """Batches of a split in file order, the last padded.

        Raises:
          UserError: the data has no such split.
        """
        size = self.run.config.training.evaluation_batch_size
        return read_in_order(find_split(self.data, split), self.run.schema, size)

    def score_batches(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, jax.Array]]:
        """Yields (batch, logits [B, O] float32 on devices)."""
        return predict_batches(self.predict_batch, batches, self.run.mesh)

    def score_split(self, split: str) -> dict[str, np.ndarray]:
        """The logits of a split with what they are judged by: `KEPT_COLUMNS` of `runs.evaluation` and "logits".

        Returns:
          Name -> array of all rows; padded rows have weight 0.

        Raises:
          UserError: the data has no such split.
        """
        return collect_rows(self.score_batches(self.read_split(split)))


def open_run(workdir: str | Path, data_path: str | None = None) -> OpenRun:
    """Restores the best state of a run (the latest, where nothing was validated).

    Args:
      workdir: the run's folder.
      data_path: read row blocks from here instead of where the config says, if they have moved.

    Raises:
      UserError: the folder holds no run, no checkpoint, or its rows are gone.
    """
    folder = RunFolder(workdir)
    # Scoring uses the devices that are here, whatever mesh and placement the run was trained on.
    config = dataclasses.replace(folder.load_config(), mesh=MeshConfig(), exchange=ExchangeConfig())
    if data_path is not None:
        if config.data.build_source().folder is None:
            raise UserError(f"--data = {data_path!r}: this run's rows lie in {folder.data}; leave the flag out")
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, path=data_path))
    directory = prepared_directory(config.data, folder.data)
    if not directory.exists():
        raise UserError(f"{directory}: the run's prepared rows are gone; put them back or give --data=FOLDER")
    data = open_run_data(config.data, folder.data, say=lambda text: print(text, file=sys.stderr))
    run = build_run(config, data.schema, join=data.join)
    checkpoints = Checkpoints(folder.checkpoints, run.exchange, read_only=True)
    try:
        return OpenRun(run, data, restore_best(run, checkpoints), folder.path)
    finally:
        checkpoints.close()

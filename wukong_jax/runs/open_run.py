"""Opens a finished or interrupted run to read its metrics, evaluate its splits and predict new rows."""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars as pl

from wukong_jax.config import ExchangeConfig, MeshConfig, RunConfig
from wukong_jax.data.blocks.batch import Batch
from wukong_jax.errors import UserError
from wukong_jax.factories import known_factories_only
from wukong_jax.idle_options import accept_idle_options
from wukong_jax.messages import describe_error
from wukong_jax.runs.checkpoints import Checkpoints, read_newest_progress, restore_best
from wukong_jax.runs.console import print_to_stderr
from wukong_jax.runs.evaluation import (
    Predict,
    build_predict,
    collect_rows,
    evaluate_state,
    find_split,
    list_ranges,
    predict_batches,
    read_in_order,
)
from wukong_jax.runs.folder import RunFolder
from wukong_jax.runs.record import read_metrics
from wukong_jax.runs.row_predictions import RowPredictions
from wukong_jax.runs.rows import RunData, open_prepared_rows, prepared_directory
from wukong_jax.runs.scoring import encode_rows, score_rows
from wukong_jax.schema import Schema
from wukong_jax.sharding.team import find_team
from wukong_jax.training.run import Run, build_run
from wukong_jax.training.state import TrainState

Rows = pl.DataFrame | Mapping[str, Any] | str | Path | Any  # Any: a pandas frame; pandas is optional


@dataclasses.dataclass(frozen=True)
class OpenRun:
    """An opened run: its parts, rows and best state."""

    run: Run
    data: RunData
    state: TrainState
    folder: Path | None = None  # the run's folder; None if it was built in memory

    @property
    def config(self) -> RunConfig:
        """The run's config, but with the mesh and exchange of this process instead of those used in training."""
        return self.run.config

    @property
    def schema(self) -> Schema:
        """The resolved schema of the run's rows."""
        return self.run.schema

    @property
    def predict_batch(self) -> Predict:
        """Function from a batch on devices to logits [B, O] float32."""
        return build_predict(self.run, self.state)

    def evaluate(self, split: str = "test", predictions: str | Path | None = None) -> dict[str, float]:
        """Evaluates one split of the run's rows.

        Args:
          split: name of the split.
          predictions: CSV file to write the labels and scores of every row to; see `row_predictions`.

        Returns:
          The metrics by name, as in `metrics.jsonl`.

        Raises:
          UserError: the data has no such split, its rows are not those of the run, or the file cannot be written.
        """
        all_rows = predictions is not None
        if predictions is None or not find_team().is_lead:
            return evaluate_state(self.run, self.data, self.state, split, all_rows=all_rows).metrics
        ranges = list_ranges(find_split(self.data, split), self.run.mesh)  # refuses before a file is opened
        with RowPredictions(Path(predictions), self.schema, ranges) as rows:
            return evaluate_state(self.run, self.data, self.state, split, rows.write, all_rows).metrics

    def predict(self, rows: Rows, data_set: str = "") -> np.ndarray:
        """Predicts probabilities for rows, including rows of weight 0.

        Args:
          rows: a polars or pandas frame, a mapping of columns, or the path of a raw file, with the columns of the
            run's raw training files; labels, timestamp, group and weight are not read and may be absent. Rows are
            encoded with the run's schema and vocabularies. Where several processes predict together, those of
            process 0 are predicted.
          data_set: where the run's rows are merged of several data sets, the name of the one whose raw rows these are.

        Returns:
          [rows, O] float64 probabilities in the order of the rows, with objectives in the order of `schema.labels`.

        Raises:
          UserError: a column is missing, a value cannot be read, or the data set is not given or unknown.
        """
        return np.concatenate([np.zeros((0, len(self.schema.labels))), *self.predict_parts(rows, data_set)])

    def predict_parts(self, rows: Rows, data_set: str = "") -> Iterator[np.ndarray]:
        """Yields the results of `predict` batch by batch, for more rows than fit in memory."""
        return score_rows(self.run, self.predict_batch, encode_rows(self.schema, self.data, rows, data_set))

    def metrics(self) -> pl.DataFrame:
        """Returns the lines of `metrics.jsonl` as rows of a frame; metrics missing in a line are null.

        Raises:
          UserError: the run has no folder, or a line cannot be read.
        """
        if self.folder is None:
            raise UserError("metrics: this run has no folder, and so no metrics.jsonl")
        return pl.from_dicts(read_metrics(RunFolder(self.folder).metrics), infer_schema_length=None)

    def read_split(self, split: str) -> Iterator[Batch]:
        """Yields the batches of a split in file order; the last one is padded.

        Raises:
          UserError: the data has no such split.
        """
        return read_in_order(find_split(self.data, split), self.run.schema, self.run.evaluation_batch_size)

    def score_batches(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, jax.Array]]:
        """Yields (batch, logits [B, O] float32 on devices)."""
        return predict_batches(self.predict_batch, map(self.run.place_bags, batches), self.run.mesh)

    def score_split(self, split: str) -> dict[str, np.ndarray]:
        """Computes the logits of a split and returns them with labels and weights.

        Returns:
          Arrays of all rows by name: "logits" and the `KEPT_COLUMNS` of `runs.evaluation`. Padding has weight 0.

        Raises:
          UserError: the data has no such split.
        """
        return collect_rows(self.score_batches(self.read_split(split)))


def open_run(workdir: str | Path, data_path: str | None = None, allow_factories: Iterable[str] = ()) -> OpenRun:
    """Opens a run with its best state, or its latest state if it was never validated.

    The folder may come from anyone: only factories of known packages are run, and whatever is wrong with its files is
    one line.

    Args:
      workdir: the run's folder.
      data_path: folder of row blocks to read instead of the run's own or the one in the config, for rows that were
        moved.
      allow_factories: packages, besides those of this project, whose factories the run's config may name.

    Raises:
      UserError: the folder holds no run or no checkpoint, a file is damaged, the config names a factory of another
        package, or the rows are gone or have another schema or other vocabularies than those of the run. That the rows
        are those of the run is checked when they are read.
    """
    with known_factories_only(allow_factories), _refusing_damage(workdir):
        return _open(workdir, data_path)


def _open(workdir: str | Path, data_path: str | None = None) -> OpenRun:
    folder = RunFolder(workdir).fetch()
    # Use the devices of this process, whatever mesh and exchange the run was trained with. Weights that were split stay
    # so, because one device may not hold them.
    config = folder.load_config()
    mesh = MeshConfig(fsdp=config.mesh.fsdp, fsdp_min_size=config.mesh.fsdp_min_size)
    config = dataclasses.replace(config, mesh=mesh, exchange=ExchangeConfig())
    if data_path is not None:
        config = dataclasses.replace(config, data=config.data.read_blocks(data_path))
    directory = (None if data_path else folder.newest_log_data()) or prepared_directory(config.data, folder.data)
    if not directory.exists():
        raise UserError(f"{directory}: the run's prepared rows are gone; put them back or give --data=FOLDER")
    data = open_prepared_rows(config.data, directory, say=print_to_stderr)
    saved = read_newest_progress(folder.checkpoints)
    if saved is not None and saved.data_fingerprint:
        data = dataclasses.replace(data, trained_on=saved.data_fingerprint)
        data.check_encoding(saved.data_fingerprint)
    with accept_idle_options():
        run = build_run(config, data.schema, join=data.join, trains=False)
    checkpoints = Checkpoints(folder.checkpoints, run.exchange, read_only=True)
    find_team().mark("restoring the state", busy=True)
    try:
        state = restore_best(run, checkpoints)
        fix = "give all processes the same --workdir, in shared storage, and wait until its training has ended"
        find_team().check_equal("restored step", f"{int(state.step)}", fix)
        return OpenRun(run, data, state, folder.path)
    finally:
        checkpoints.close()


@contextlib.contextmanager
def _refusing_damage(workdir: str | Path) -> Iterator[None]:
    """Converts exceptions that damaged or foreign files cause in other libraries to a UserError of one line."""
    try:
        yield
    except UserError:
        raise
    except (Exception, pl.exceptions.PanicException) as error:
        raise UserError(
            f"{workdir}: not readable ({describe_error(error)}); its files are damaged or of a later version"
        ) from error

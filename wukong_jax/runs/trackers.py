"""Provides experiment trackers as listeners: Weights & Biases, MLflow and trackio, each an optional extra.

A tracker receives the config at the start, then the numbers of every log line and evaluation, named as in TensorBoard.
Each tracker's settings (WANDB_MODE, MLFLOW_TRACKING_URI etc.) determine where it sends them. A resumed run continues
its tracked run, whose id is stored in `trackers.json` in the run's folder.
"""

import abc
import importlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wukong_jax.errors import UserError
from wukong_jax.files.whole_files import write_text_whole
from wukong_jax.runs.record import read_json_file
from wukong_jax.runs.tensorboard import name_scalars
from wukong_jax.training.loop import Listener, RunStart

PROJECT = "wukong-jax"


class Tracker(Listener, abc.ABC):
    """Base class of the trackers: imports the package and sends the numbers of each line."""

    name = ""  # name of the package and of the extra

    def __init__(self) -> None:
        """Imports the package.

        Raises:
          UserError: the package is not installed.
        """
        try:
            self._package = importlib.import_module(self.name)
        except ImportError as error:
            raise UserError(
                f"config.training.trackers = {self.name!r}: {error}; run pip install 'wukong-jax[{self.name}]'"
            ) from None

    @abc.abstractmethod
    def send(self, numbers: Mapping[str, float], step: int) -> None:
        """Sends numbers by name to the tracked run."""

    def on_log(self, line: Mapping[str, Any]) -> None:
        """Sends the line's numbers."""
        self.send(name_scalars(line), line["step"])

    def on_evaluation(self, line: Mapping[str, Any], best: bool) -> None:
        """Sends the line's numbers."""
        self.send(name_scalars(line), line["step"])


class WandbTracker(Tracker):
    """Weights & Biases."""

    name = "wandb"

    def on_start(self, start: RunStart) -> None:
        """Opens the tracked run, or continues it."""
        known = _read_id(start.folder, self.name)
        where = {"project": PROJECT, "name": start.name, "dir": str(start.folder)}
        self._run = self._package.init(config=dict(start.config), id=known, resume="allow", **where)
        _keep_id(start.folder, self.name, self._run.id)

    def send(self, numbers: Mapping[str, float], step: int) -> None:
        """Sends numbers by name to the tracked run."""
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        """Ends the tracked run."""
        if hasattr(self, "_run"):
            self._run.finish()


class MlflowTracker(Tracker):
    """MLflow."""

    name = "mlflow"

    def on_start(self, start: RunStart) -> None:
        """Opens the tracked run, or continues it."""
        known = _read_id(start.folder, self.name)
        self._run = self._package.start_run(run_id=known, run_name=None if known else start.name, nested=True)
        if known is None:
            _keep_id(start.folder, self.name, self._run.info.run_id)
            self._package.log_params(dict(_flatten(start.config)))

    def send(self, numbers: Mapping[str, float], step: int) -> None:
        """Sends numbers by name to the tracked run."""
        named = {
            re.sub(r"[^\w\-./: ]", "_", name): number for name, number in numbers.items()
        }  # characters that MLflow allows
        self._package.log_metrics(named, step=step)

    def close(self) -> None:
        """Ends the tracked run."""
        if hasattr(self, "_run"):
            self._package.end_run()


class TrackioTracker(Tracker):
    """trackio."""

    name = "trackio"

    def on_start(self, start: RunStart) -> None:
        """Opens the tracked run, or continues it."""
        known = _read_id(start.folder, self.name) or f"{start.name}-{start.folder.resolve().name}"
        self._run = self._package.init(project=PROJECT, name=known, config=dict(start.config), resume="allow")
        _keep_id(start.folder, self.name, known)

    def send(self, numbers: Mapping[str, float], step: int) -> None:
        """Sends numbers by name to the tracked run."""
        self._package.log(dict(numbers), step=step)

    def close(self) -> None:
        """Ends the tracked run."""
        if hasattr(self, "_run"):
            self._package.finish()


_TRACKERS = {tracker.name: tracker for tracker in (WandbTracker, MlflowTracker, TrackioTracker)}


def build_trackers(names: Sequence[str]) -> list[Tracker]:
    """Builds the trackers that a config names.

    Raises:
      UserError: a tracker's package is not installed.
    """
    return [_TRACKERS[name]() for name in names]


def _read_id(folder: Path, name: str) -> str | None:
    return (read_json_file(folder / "trackers.json", dict) or {}).get(name)


def _keep_id(folder: Path, name: str, run_id: str) -> None:
    known = read_json_file(folder / "trackers.json", dict) or {}
    write_text_whole(folder / "trackers.json", json.dumps({**known, name: run_id}, indent=1) + "\n")


def _flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields dotted keys and values, because MLflow's parameters are flat."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value

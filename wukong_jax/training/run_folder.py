"""A run's folder: its config, its metrics lines and its summary, written so that nothing is ever half there."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wukong_jax.config import RunConfig, build_run_config, compare_run_configs, run_config_to_json
from wukong_jax.errors import UserError
from wukong_jax.metrics.metric_names import replace_nan_by_none


class RunFolder:
    """Paths and small files of one run.

    `config.json`, `metrics.jsonl`, `summary.json`, `calibration.json`, `report.html`, `checkpoints/`,
    `tensorboard/`, `data/` (rows prepared by the run itself).
    """

    def __init__(self, path: str | Path):
        """Names the folder; creates nothing."""
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.data = self.path / "data"
        self.metrics = self.path / "metrics.jsonl"
        self.summary = self.path / "summary.json"

    def claim(self, config: RunConfig) -> dict[str, tuple[Any, Any]]:
        """Makes the folder this run's, or continues the run it holds.

        Returns:
          The changed keys that a continued run may change: key -> (old, new); empty for a new run.

        Raises:
          UserError: the folder holds a run with other mathematics, or cannot be written.
        """
        allowed: dict[str, tuple[Any, Any]] = {}
        if (self.path / "config.json").exists():
            allowed, refused = compare_run_configs(self.load_config(), config)
            if refused:
                key, (old, new) = next(iter(refused.items()))
                more = f" (and {len(refused) - 1} more: {', '.join(list(refused)[1:4])})" if len(refused) > 1 else ""
                raise UserError(
                    f"config.{key} = {new!r}: the run in {self.path} was started with {old!r}{more}; "
                    "continue with the old value, or give another --workdir"
                )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_text_whole(self.path / "config.json", run_config_to_json(config))
        except OSError as error:
            raise UserError(f"--workdir = {self.path}: {error.strerror}; give a folder that can be written") from None
        return allowed

    def load_config(self) -> RunConfig:
        """The config the run was last started with.

        Raises:
          UserError: the folder holds no run.
        """
        path = self.path / "config.json"
        if not path.exists():
            raise UserError(f"--workdir = {self.path}: holds no run (no config.json); give the folder of a run")
        try:
            mapping = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg}); give the folder of a run") from None
        return build_run_config(mapping)

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Adds one line to `metrics.jsonl`; NaN and infinity become null."""
        with self.metrics.open("a") as file:
            file.write(json.dumps(replace_nan_by_none(line)) + "\n")

    def cut_back_metrics(self, step: int) -> None:
        """Drops the metrics lines past `step` (and a torn last line): the run goes on from there."""
        if not self.metrics.exists():
            return
        kept = []
        for text in self.metrics.read_text().splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            if line["step"] <= step and line["split"] != "test":
                kept.append(text + "\n")
        write_text_whole(self.metrics, "".join(kept))

    def write_json(self, name: str, value: Any) -> None:
        """Writes a JSON file whole; NaN and infinity become null."""
        write_text_whole(self.path / name, json.dumps(replace_nan_by_none(value), indent=1) + "\n")

    def load_summary(self) -> dict[str, Any] | None:
        """The summary of a finished run, or None."""
        return json.loads(self.summary.read_text()) if self.summary.exists() else None


def write_text_whole(path: Path, text: str) -> None:
    """Writes aside, then renames: a reader never sees half a file."""
    aside = path.with_name(path.name + ".writing")
    with aside.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)

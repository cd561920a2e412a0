"""Manages a run's folder: config, metrics lines and summary. No file is ever left half written."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from wukong_jax.config import (
    RunConfig,
    build_run_config,
    check_factory_names,
    compare_run_configs,
    describe_changeable_keys,
    run_config_to_json,
)
from wukong_jax.config_upgrade import drop_keys, find_old_behaviour, upgrade_stored_config
from wukong_jax.errors import UserError
from wukong_jax.factories import known_factories_only
from wukong_jax.files.file_lock import hold_lock
from wukong_jax.files.object_store import is_store_url, name_on_store
from wukong_jax.files.plain_path import check_path_readable
from wukong_jax.files.whole_files import write_text_whole
from wukong_jax.idle_options import accept_idle_options
from wukong_jax.metrics.metric_names import replace_nan_by_none
from wukong_jax.runs.record import read_json_file, read_metrics
from wukong_jax.runs.store_mirror import StoreMirror, list_steps, make_working_folder
from wukong_jax.strict_mapping import to_mapping

_LOG_SETTINGS = "online.json"  # of a run of train_online
_LONGEST_PATH = 3500  # bytes; systems allow 4096, and the files of a checkpoint need a few hundred


class RunFolder:
    """Paths and small files of one run.

    The folder holds `config.json`, `metrics.jsonl`, `summary.json`, `calibration.json`, `report.html`, `checkpoints/`,
    `tensorboard/` and `data/` (rows prepared by the run itself). If it is on an object store, the paths are those of a
    temporary working folder, except for checkpoints on gs://; see `store_mirror`.
    """

    def __init__(self, path: str | Path, writes: bool = True):
        """Sets the paths; creates nothing.

        Args:
          path: the folder, or its URL on an object store.
          writes: False: write nothing and take no lock, because another process of the same training does.

        Raises:
          UserError: the path is empty, or its store cannot be opened.
        """
        if not str(path):
            raise UserError("--workdir = '': names no folder; give one")
        self.name, self._writes = str(path), writes  # as the user gave it
        self.mirror: StoreMirror | None = None
        if is_store_url(path):
            self.path = make_working_folder()
            self.mirror = StoreMirror(self.name, self.path)
        else:
            self.path = Path(path)
        self.checkpoints: Any = self.path / "checkpoints"  # a pathlib.Path, or an epath.Path on gs://
        if name_on_store(self.name):
            from etils import epath

            self.checkpoints = epath.Path(self.name) / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.data = self.path / "data"
        self.metrics = self.path / "metrics.jsonl"

    def fetch(self, checkpoints: bool = True) -> "RunFolder":
        """Copies the run's files from its object store, if it is on one; returns this folder.

        Args:
          checkpoints: whether to copy the newest checkpoints, too, where they are not read in place.

        Raises:
          UserError: the store does not answer.
        """
        if self.mirror is not None:
            self.mirror.fetch(checkpoints and not name_on_store(self.name))
            self.mirror.fetch_rows(self.data)
        return self

    def check_processes(self, count: int) -> None:
        """Refuses several processes where only one can write checkpoints.

        Raises:
          UserError: there are several, and the folder is on a store to which Orbax does not write.
        """
        if count > 1 and self.mirror is not None and not name_on_store(self.name):
            raise UserError(
                f"--workdir = {self.name!r}: {count} processes write checkpoints together on gs:// or a shared disk "
                "only; give one of them, or --processes=1"
            )

    def publish_rows(self) -> None:
        """Puts rows that the run prepared on its object store, if it is on one and this process writes."""
        if self.mirror is not None and self._writes:
            self.mirror.publish_rows(self.data)

    def claim(self, config: RunConfig) -> dict[str, tuple[Any, Any]]:
        """Checks that a config continues the run in the folder, if there is one; writes nothing (`record_config`).

        If the run has saved no checkpoint yet, every key may change, so that a failed first start can be corrected.

        Args:
          config: the config; what `keep_old_behaviour` changes in it is changed here, too.

        Returns:
          The changed keys as key -> (old, new), all of which a continued run may change; empty for a new run.

        Raises:
          UserError: the folder holds a run whose results would be different.
        """
        config = self.keep_old_behaviour(config)
        allowed: dict[str, tuple[Any, Any]] = {}
        if (self.path / "config.json").exists():
            allowed, refused = compare_run_configs(self.load_config(), config)
            if refused and not self.is_saved:
                allowed, refused = {}, {}
            if refused:
                key, (old, new) = next(iter(refused.items()))
                more = f" (and {len(refused) - 1} more: {', '.join(list(refused)[1:4])})" if len(refused) > 1 else ""
                raise UserError(
                    f"config.{key} = {new!r}: the run in {self.name} was started with {old!r}{more}; "
                    f"continue with the old value, or give another --workdir; {describe_changeable_keys()}"
                )
        return allowed

    def record_config(self, config: RunConfig) -> None:
        """Writes `config.json`, when everything about a start has been accepted."""
        if not self._writes:
            return
        mapping = json.loads(run_config_to_json(config))
        drop_keys(mapping, self._find_old_behaviour())
        write_text_whole(self.path / "config.json", json.dumps(mapping, indent=1) + "\n")

    def keep_old_behaviour(self, config: RunConfig) -> RunConfig:
        """Returns the config to go on with; a run of an earlier version keeps what is another default today."""
        kept = {key.removeprefix("training."): value for key, value in self._find_old_behaviour().items()}
        return dataclasses.replace(config, training=dataclasses.replace(config.training, **kept))

    def _find_old_behaviour(self) -> dict[str, Any]:
        stored = read_json_file(self.path / "config.json", dict)
        return {} if stored is None or not self.is_saved else find_old_behaviour(stored)

    @property
    def is_saved(self) -> bool:
        """Whether the run has saved a checkpoint, so that its rows must stay the same."""
        if name_on_store(self.name):
            assert self.mirror is not None
            found = (self.mirror.folder / "checkpoints").list()
            return any(list_steps(found, which) for which in ("latest", "best"))
        return any(step.name.isdigit() for step in self.checkpoints.glob("*/*"))

    def saved_steps(self) -> set[int]:
        """Returns the steps of the checkpoints."""
        return {int(step.name) for step in self.checkpoints.glob("*/*") if step.name.isdigit()}

    @property
    def is_log(self) -> bool:
        """Whether the folder holds a run of `train_online`."""
        return (self.path / _LOG_SETTINGS).exists()

    def newest_log_data(self) -> Path | None:
        """Returns the prepared rows that belong to the newest checkpoint of a run of `train_online`; else None."""
        steps = self.saved_steps() if self.is_log else set()
        return self.data / str(max(steps)) if steps else None

    def claim_log(self, config: RunConfig, settings: Any) -> None:
        """Checks, as `claim`, that config and settings continue a run of `train_online` in the folder.

        Args:
          config: the config.
          settings: the settings of `train_online`, a dataclass, which are written if they are accepted.

        Raises:
          UserError: the folder holds another run, or one whose results would be different.
        """
        if not self.is_log and (self.path / "config.json").exists():
            raise UserError(f"--workdir = {self.path}: holds a run of train; give another folder")
        self.claim(config)
        stored = read_json_file(self.path / _LOG_SETTINGS, dict)
        if stored is not None and self.is_saved:
            for key, value in to_mapping(settings).items():
                if stored.get(key, value) != value:
                    raise UserError(
                        f"--{key} = {value!r}: the run in {self.path} was started with {stored[key]!r}; continue with "
                        "the old value, or give another --workdir"
                    )
        self.write_json(_LOG_SETTINGS, to_mapping(settings))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Locks the folder for this process; two trainers in one folder would overwrite each other's files.

        A folder that is created for this, and into which nothing is written, is removed at the end.

        Raises:
          UserError: another process holds the lock, or the folder is not writable.
        """
        self._check_name()
        if not self._writes:
            yield
            return
        busy = f"--workdir = {self.name}: another process is training there; wait for it, or give another folder"
        if self.mirror is not None:
            with self.mirror.locked(busy):
                yield
            return
        lock = self.path / ".lock"
        with contextlib.ExitStack() as held:
            try:
                is_new = not self.path.exists()
                self.path.mkdir(parents=True, exist_ok=True)
                held.enter_context(hold_lock(lock, busy))
            except OSError as error:
                fix = "give a writable folder"
                raise UserError(f"--workdir = {self.path}: {error.strerror}; {fix}") from None
            try:
                yield
            finally:
                if is_new and list(self.path.iterdir()) == [lock]:
                    lock.unlink()
                    self.path.rmdir()

    def _check_name(self) -> None:
        """Refuses a path under which a run could not be stored or found again, before anything is written."""
        if str(self.path).startswith("~") and not self.path.exists():
            raise UserError(f"--workdir = {str(self.path)!r}: the shell did not expand '~'; write $HOME instead")
        length = len(os.fsencode(self.path.absolute()))
        if length > _LONGEST_PATH:
            raise UserError(
                f"--workdir = {str(self.path)[:60]!r}...: its path has {length} bytes, too long for the files in it; "
                f"give one of at most {_LONGEST_PATH}"
            )
        check_path_readable(self.path / "checkpoints")

    def load_config(self, allow_factories: Iterable[str] = ()) -> RunConfig:
        """Loads the config that the run was last started with.

        Args:
          allow_factories: see `open_run`.

        Raises:
          UserError: the folder holds no run, or its config names a factory of an unknown package.
        """
        mapping = read_json_file(self.path / "config.json", dict)
        if mapping is None:
            raise UserError(f"--workdir = {self.name}: holds no run (no config.json); give the folder of a run")
        upgrade_stored_config(mapping)
        with accept_idle_options(), known_factories_only(allow_factories):  # idle options: of a run of an older version
            config = build_run_config(mapping)
            check_factory_names(config)
        return config

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Appends one line to `metrics.jsonl`; NaN and infinity become null."""
        if not self._writes:
            return
        if self.mirror is not None:
            self.mirror.check()
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(replace_nan_by_none(line)) + "\n")

    def cut_back_metrics(self, step: int) -> None:
        """Deletes the metrics lines after `step`, where the run resumes, and an incomplete last line."""
        if not self._writes or not self.metrics.exists():
            return
        lines = read_metrics(self.metrics, skip_torn=True)
        kept = [json.dumps(line) + "\n" for line in lines if line["step"] <= step and line["split"] != "test"]
        write_text_whole(self.metrics, "".join(kept))

    def write_json(self, name: str, value: Any) -> None:
        """Writes a JSON file atomically; NaN and infinity become null."""
        if not self._writes:
            return
        write_text_whole(self.path / name, json.dumps(replace_nan_by_none(value), indent=1) + "\n")

    def drop_results(self) -> None:
        """Deletes the results of an earlier end of the run, because further training makes them outdated."""
        for name in ("summary.json", "calibration.json", "report.html") if self._writes else ():
            (self.path / name).unlink(missing_ok=True)

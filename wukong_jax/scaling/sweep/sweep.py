"""Runs the units of a sweep one after another; units resume, are skipped when done, and fail independently."""

import contextlib
import dataclasses
import functools
import json
import math
import platform
import shutil
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax

from wukong_jax.config import RunConfig, start_config, stretch_schedule
from wukong_jax.config_upgrade import drop_keys, find_old_behaviour, upgrade_config, with_keys
from wukong_jax.data.blocks.label_sums import find_label_classes
from wukong_jax.errors import BusyError, NotFiniteLossError, UserError
from wukong_jax.files.file_lock import hold_lock
from wukong_jax.files.whole_files import write_text_whole
from wukong_jax.metrics.metric_names import replace_nan_by_none
from wukong_jax.reports.kept_results import describe_here
from wukong_jax.runs.record import read_json_file, read_metrics, read_number
from wukong_jax.runs.rows import RunData, open_run_data
from wukong_jax.runs.train_run import total_steps, train_run
from wukong_jax.scaling.sweep.config import Settings, SweepConfig
from wukong_jax.scaling.sweep.suggest import check_optuna
from wukong_jax.scaling.sweep.units import (
    Unit,
    curve_units,
    due_trials,
    plan_search,
    shard_models,
    shard_trials,
    shard_units,
    structure_size,
)
from wukong_jax.strict_mapping import list_changes, to_mapping
from wukong_jax.training.compiled_programs import keep_programs_in
from wukong_jax.training.run import build_run
from wukong_jax.training.size import describe_size

Say = Callable[[str], None]
DONE, EXPLODED, FAILED = "done", "exploded", "failed"
# A run that ends with normalized entropy above this has diverged, even if its loss is finite; 1 is a constant guess.
EXPLODED_ENTROPY = 1.5


class Sweep:
    """A sweep and its folder, which contains `data/` (rows, prepared once), `units/` (run folders) and `sweep.json`."""

    def __init__(self, config: SweepConfig, workdir: str | Path, say: Say = print):
        """Opens the folder and prepares the rows if necessary.

        Raises:
          UserError: the folder contains another sweep, the rows cannot be prepared, there are no validation rows, or a
            model rejects its options.
        """
        self.config, self.folder, self.say = config, Path(workdir), say
        self.failed: set[Unit] = set()  # in the last run
        if config.search.structure.trials:
            check_optuna()
        self._ended: dict[Unit, dict[str, Any]] = {}  # outcomes that do not change any more
        self.folder.mkdir(parents=True, exist_ok=True)
        with hold_lock(self.folder / ".lock"):  # several shards may start at once
            mine = self._claim()
            trained = (self.folder / "units").exists()
            self.data: RunData = open_run_data(config.data_config(), self.folder / "data", say, saved=trained)
            if trained:
                self._check_rows()
        if "validation" not in self.data.splits:
            raise UserError(
                f"{self.data.directory}: has no validation rows, which the search judges by; prepare some, as with "
                "prepare_data.py --validation_share_of_test=0.5"
            )
        if not find_label_classes(self.data.splits["validation"], len(self.data.schema.labels)).any():
            raise UserError(
                f"{self.data.directory}: its validation rows have no observed label, and the search judges by their "
                "log loss; prepare others"
            )
        self._check_models()
        with hold_lock(self.folder / ".lock"):
            record = mine | {"data_fingerprint": self.data.fingerprint}
            write_text_whole(self.folder / "sweep.json", json.dumps(record, indent=1) + "\n")

    def _check_models(self) -> None:
        """Builds each model at each size and with each norm and structure, so that invalid options are told at once."""
        for model in self.config.models:
            for size, settings in self._list_checked(model):
                trial = Unit(model, size, settings, 0, self.config.search.steps)
                config = self._run_config(trial)
                try:
                    build_run(config, self.data.schema)
                except UserError as error:
                    chosen = "".join(f", {choice} {name}" for choice, name in settings.structure)
                    where = f"config.models, {model} {size}, norm {settings.norm}{chosen}"
                    raise UserError(f"{where}: {error}") from None

    def _list_checked(self, model: str) -> Iterable[tuple[str, Settings]]:
        """Lists each size with the usual settings, and each other norm or alternative, one at a time, at one size."""
        ladder, sizes = self.config.ladder(model), [size.name for size in self.config.sizes(model)]
        searched = self.config.search.structure.trials > 0
        one = structure_size(self.config, model) if searched else sizes[0]
        structures = ladder.structures if searched else {}
        usual = {choice: next(iter(names)) for choice, names in structures.items()}
        norms = list(ladder.norms)
        decay = max(self.config.search.structure.weight_decays)
        start = Settings(1.0, 0.0, norms[0], tuple(usual.items()), decay)
        yield from ((size, start) for size in sizes)
        yield from ((one, dataclasses.replace(start, norm=norm)) for norm in norms[1:])
        for choice, names in structures.items():
            for name in list(names)[1:]:
                yield one, dataclasses.replace(start, structure=tuple((usual | {choice: name}).items()))

    def _run_config(self, unit: Unit) -> RunConfig:
        config = self.config.run_config(unit.model, unit.size, unit.settings, unit.seed, str(self.data.directory))
        if not unit.steps:
            return config
        total = total_steps(config, self.data)
        if unit.steps >= total:
            fix = "give fewer, or 0 to search with whole runs"
            raise UserError(f"config.search.steps = {unit.steps}: a whole run has {total}; {fix}")
        config = stretch_schedule(config, unit.steps / total)
        return dataclasses.replace(config, training=dataclasses.replace(config.training, steps=unit.steps, epochs=None))

    def _check_rows(self) -> None:
        """Checks that the units were trained on these rows; sweeps of earlier versions tell it by an ended unit."""
        fingerprint = (read_json_file(self.folder / "sweep.json", dict) or {}).get("data_fingerprint")
        for path in () if fingerprint else sorted((self.folder / "units").rglob("unit.json")):
            summary = json.loads(path.read_text(encoding="utf-8")).get("summary") or {}
            fingerprint = fingerprint or summary.get("data_fingerprint")
        if fingerprint:
            self.data.check_rows(fingerprint, "give the same rows, or another --workdir")

    def _claim(self) -> dict[str, Any]:
        """Checks that the folder's units were trained with this config; models, sizes and seeds may be added.

        Returns:
          The content of `sweep.json`, which is written when everything has been accepted.
        """
        path = self.folder / "sweep.json"
        mine = json.loads(json.dumps(to_mapping(self.config)))
        mine["run"] = _comparable(mine["run"])
        if path.exists():
            before = json.loads(path.read_text(encoding="utf-8"))
            kept = find_old_behaviour(before.setdefault("run", {}))
            before["run"] = _comparable(before["run"])
            for run in (mine["run"], before["run"]):
                drop_keys(run, kept)
            self.config = dataclasses.replace(self.config, run=with_keys(self.config.run, kept))
            for key, value in kept.items():  # the units so far were trained with it
                self.say(f"config.run.{key} stays {value!r}, as in the earlier version that started this sweep")
            for key in ("run", "data_name", "options"):
                for changed, (old, new) in list_changes(before.get(key), mine[key], f"config.{key}").items():
                    raise UserError(
                        f"{changed} = {new!r}: the sweep in {self.folder} was started with {old!r}; give another "
                        "--workdir"
                    )
        return mine

    def run(self, shard: int = 0, shards: int = 1) -> int:
        """Trains the missing units of a shard.

        Args:
          shard: index of the shard, 0 to shards - 1.
          shards: number of processes or machines that share the sweep over a common file system.

        Returns:
          The number of models whose search, in other shards, has not ended. Their curves stay incomplete until this
          shard is started again.

        Raises:
          UserError: another process trains this shard.
          SystemExit: with code 143 or 130 after a signal; the current unit is saved and resumes at the next start.
        """
        self.failed = set()
        lock = self.folder / f".shard_{shard}_of_{shards}.lock"
        # A program compiled on one machine may not run on another that shares the folder.
        compiled = self.folder / "compiled" / platform.node()
        busy = (
            f"--workdir = {self.folder}: another process is at work on this part of the sweep; wait for it, or stop it "
            "and start all parts with --shard"
        )
        with hold_lock(lock, busy), keep_programs_in(compiled):
            return self._run_shard(shard, shards)

    def _run_shard(self, shard: int, shards: int) -> int:
        # One unit at a time, since the next one depends on its result and on searches that other shards finish.
        while (due := self.next_unit(shard, shards)) is not None:
            self._run_unit(due)
            if not self._has_ended(due):
                self.failed.add(due)
        return len(self.searching())

    def next_unit(self, shard: int, shards: int) -> Unit | None:
        """Returns the unit that a shard trains next, as far as the results so far tell; None if there is none yet."""
        models = list(self.config.models)
        if self.config.search.structure.at_once > 1:  # shards share the trials of every model
            units = shard_trials(due_trials(self.config, models, self.loss), shard, shards)
        else:
            units = due_trials(self.config, shard_models(models, shard, shards), self.loss)
        units += shard_units(curve_units(self.config, self.found()), shard, shards)
        return next((unit for unit in units if unit not in self.failed and not self._has_ended(unit)), None)

    def found(self) -> dict[str, dict[str, Settings]]:
        """Returns the settings of each model and size whose search has ended."""
        return {model: plan_search(self.config, model, self.loss)[1] for model in self.config.models}

    def searching(self) -> list[str]:
        """Returns the models whose search has not ended at every size."""
        return [model for model, found in self.found().items() if len(found) < len(self.config.sizes(model))]

    def loss(self, unit: Unit) -> float | None:
        """Returns the validation log loss of a unit; infinite if it exploded or failed, None if it has not ended."""
        outcome = self.outcome(unit)
        if outcome is None:
            return None
        loss = read_number(outcome["summary"]["validation"]["log_loss"]) if outcome["status"] == DONE else None
        return math.inf if loss is None else loss

    def outcome(self, unit: Unit) -> dict[str, Any] | None:
        """Reads the outcome of a unit from `unit.json`: status, error, settings, summary and points.

        Returns:
          The outcome; None if the unit has not ended.

        Raises:
          UserError: the unit was trained with other options than its ladder has now.
        """
        path = self.folder / unit.folder / "unit.json"
        if unit not in self._ended and path.exists():
            outcome = json.loads(path.read_text(encoding="utf-8"))
            self._check_options(unit, path.with_name("config.json"))
            if outcome["status"] == FAILED:  # may be tried again by any shard
                return outcome
            self._ended[unit] = outcome
        return self._ended.get(unit)

    def _check_options(self, unit: Unit, trained: Path) -> None:
        before = read_json_file(trained, dict)
        if before is None:  # failed before training began
            return
        now = json.loads(json.dumps(to_mapping(self._run_config(unit))))
        for key, old, new in (
            ("model.options", before["model"]["options"], now["model"]["options"]),
            ("embeddings.width", before["embeddings"]["width"], now["embeddings"]["width"]),
        ):
            if old != new:
                raise UserError(
                    f"{unit.model} {unit.size}: {key} = {new}, its units in {self.folder} were trained with {old}; "
                    "give the changed size another name, or give another --workdir"
                )

    def count_missing(self) -> int:
        """Counts the units that have not ended, among those known so far."""
        return sum(self.outcome(unit) is None for unit in self._list_units())

    def list_made(self) -> list[dict[str, str]]:
        """Lists the distinct commits, machines and dates of the ended units; units of old sweeps have none."""
        made = [outcome.get("made") for unit in self._list_units() if (outcome := self.outcome(unit)) is not None]
        return [dict(pairs) for pairs in dict.fromkeys(tuple(one.items()) for one in made if one)]

    def _list_units(self) -> Iterable[Unit]:
        """Lists all units known so far: those of the searches, and those of curves whose settings are found."""
        units: dict[Unit, Any] = dict.fromkeys(curve_units(self.config, self.found()))
        for model in self.config.models:
            units |= plan_search(self.config, model, self.loss)[0]
        return units

    def _has_ended(self, unit: Unit) -> bool:
        outcome = self.outcome(unit)
        return outcome is not None and outcome["status"] != FAILED

    def _run_unit(self, unit: Unit) -> None:
        folder = self.folder / unit.folder
        folder.mkdir(parents=True, exist_ok=True)
        outcome: dict[str, Any] = {"status": DONE, "error": "", **dataclasses.asdict(unit), "made": self._made}
        config = self._run_config(unit)
        try:
            with (folder / "log.txt").open("a", encoding="utf-8") as log, contextlib.redirect_stderr(log):
                outcome["summary"] = train_run(config, str(folder), lambda text: print(text, file=log, flush=True))
            evaluations = _read_evaluations(folder)
            outcome["points"] = [self._make_point(line, config.training.batch_size) for line in evaluations]
            error = _explain_explosion(evaluations[-1])  # the last state, not the best, earlier one
            if error:
                outcome |= {"status": EXPLODED, "error": error}
        except NotFiniteLossError as error:
            # An exploded unit needs its cost, too, for its place on the compute axis.
            run = build_run(config, self.data.schema)
            cost = describe_size(run, run.abstract_state().params)
            outcome |= {"status": EXPLODED, "error": str(error), "cost": cost}
        except BusyError as error:
            raise UserError(f"{error} (every start of a sweep must name the same number of shards)") from None
        except Exception as error:  # a failure (out of memory, full disk, bug) must not stop the other units
            outcome |= {"status": FAILED, "error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
            (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        finally:
            jax.clear_caches()  # the compiled programs of hundreds of units would fill the memory
        outcome = replace_nan_by_none(outcome)
        write_text_whole(folder / "unit.json", json.dumps(outcome, indent=1) + "\n")
        if outcome["status"] != FAILED and not self.config.keep_checkpoints:
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # they hold two copies of the tables per unit
        self._tell(unit, outcome)

    @functools.cached_property
    def _made(self) -> dict[str, str]:
        """Commit, machine and date of this process's code, read once, since the checkout may change later."""
        return describe_here()

    def _make_point(self, line: Mapping[str, Any], batch: int) -> dict[str, float]:
        """Builds a point from an evaluation: the examples seen and the validation metrics."""
        rows = self.data.splits["train"].rows
        epochs, steps = divmod(line["step"], math.ceil(rows / batch))
        seen = epochs * rows + steps * batch
        return {"examples_seen": seen, "log_loss": line["log_loss"], "auc": line["auc"]}

    def _tell(self, unit: Unit, outcome: dict[str, Any]) -> None:
        text = f"{unit.model} {unit.size}, {unit.settings.name}, seed {unit.seed}: {outcome['status']}"
        if outcome["status"] == DONE:
            summary = outcome["summary"]
            text += f", validation log loss {summary['validation']['log_loss']:.5f}"
            text += f", {summary['train_flops_per_example'] / 1e6:.3f} MFLOP, {summary['wall_seconds']:.0f} s"
        elif outcome["error"]:
            text += f" ({outcome['error']})"
        self.say(text)


def _explain_explosion(line: Mapping[str, Any]) -> str:
    """Explains why an evaluation is that of a diverged run; empty if it is not. One class has no normalized entropy."""
    loss, entropy = read_number(line["log_loss"]), read_number(line["normalized_entropy"])
    if loss is None:
        return "log loss not finite at the end"
    return f"normalized entropy {entropy:.3g} at the end" if entropy and entropy > EXPLODED_ENTROPY else ""


def _read_evaluations(folder: Path) -> list[dict[str, Any]]:
    """Reads the validation lines of a run's `metrics.jsonl`; at least one, since a run ends with a validation."""
    return [line for line in read_metrics(folder / "metrics.jsonl") if line["split"] == "validation"]


def _comparable(run: Mapping[str, Any]) -> dict[str, Any]:
    """Prepares a sweep's run config for comparison with an older one; keys missing in the older get their defaults."""
    today = json.loads(json.dumps(run))
    upgrade_config(today)
    filled = _fill_in(today, json.loads(json.dumps(start_config().to_dict())))
    filled["training"].pop("early_stop_metric", None)  # set by each unit (`SweepConfig.run_config`)
    return filled


def _fill_in(mapping: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the defaults of missing keys at any depth."""
    filled = {**defaults, **mapping}
    nested = (key for key in defaults if isinstance(filled[key], Mapping) and isinstance(defaults[key], Mapping))
    return filled | {key: _fill_in(filled[key], defaults[key]) for key in nested}

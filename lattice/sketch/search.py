"""Lattice Sketch: search over the sizes of a model for the best AUC / FLOPs^0.003 under a budget.

The paper alternates this search with one over shardings (`sharding_programme.py`) and runs Bayesian optimisers in
parallel; it does not say which ones, or over what. Here trials run one after another. The first is the hand-made run,
the next ones are suggested by Optuna (`trials.py`). A point is never trained if its FLOPs exceed the budget or its
model refuses it.

A trial is an ordinary run in a separate folder. It is trained in stages with increasing `training.steps` and may be
stopped between stages. Stages end at steps where the run evaluates anyway, and no learning rate depends on
`training.steps`, so a trial that is not stopped gives the same result as a run without stages.
"""

import contextlib
import dataclasses
import json
import math
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import optuna

from lattice.sketch.forecast import explain_stop
from lattice.sketch.objective import compute_objective
from lattice.sketch.pictures import draw_trials
from lattice.sketch.predict_latency import measure_predict_milliseconds
from lattice.sketch.space import SketchConfig, Values, build_sketch_config
from lattice.sketch.trials import (
    COMPLETE,
    PRUNED,
    REFUSED,
    RUNNING,
    Trial,
    choose_best,
    suggest_values,
)
from wukong_jax.config import RunConfig, run_config_to_json
from wukong_jax.config_upgrade import drop_keys, find_old_behaviour, with_keys
from wukong_jax.data.blocks.label_sums import find_label_classes
from wukong_jax.errors import NotFiniteLossError, UserError
from wukong_jax.files.file_lock import hold_lock
from wukong_jax.files.whole_files import write_bytes_whole, write_text_whole
from wukong_jax.metrics.metric_names import replace_nan_by_none
from wukong_jax.runs.record import read_metrics, read_number
from wukong_jax.runs.rows import RunData, open_run_data
from wukong_jax.runs.train_run import total_steps, train_run
from wukong_jax.strict_mapping import build_dataclass, list_changes, to_mapping
from wukong_jax.training.compiled_programs import keep_programs_in
from wukong_jax.training.loop import ALL_DONE
from wukong_jax.training.network import resolve_model_options
from wukong_jax.training.run import Run, build_run
from wukong_jax.training.size import describe_size

Say = Callable[[str], None]
MOST_REFUSED = 200  # points in a row that may be refused before the search gives up
_BEST_CONFIG = '''"""The best run that a search found: trial {number}.

Command:   wukong-jax train --config={path} --workdir=FOLDER
"""

import json
from pathlib import Path

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The run of best_config.json."""
    return ConfigDict(json.loads(Path(__file__).with_name("best_config.json").read_text()))
'''


class Sketch:
    """A search and its folder: `data/` (rows, prepared once), `trials/` (run folders), `sketch.json`."""

    def __init__(self, config: SketchConfig, workdir: str | Path, say: Say = print):
        """Opens the folder, and prepares the rows if they are not there yet.

        Raises:
          UserError: the folder holds another search, or the rows cannot be prepared or have no validation split.
        """
        self.config, self.folder, self.say = config, Path(workdir), say
        self.options = config.search
        self.trials: list[Trial] = []
        self._kept: dict[str, Any] = {}  # keys that the search in the folder, of an earlier version, does not have
        self.folder.mkdir(parents=True, exist_ok=True)
        with hold_lock(self.folder / ".lock", self._busy):
            trained_on = self._claim()
            hand_made = config.build_run(config.hand_made)
            saved = bool(self.trials)
            self.data: RunData = open_run_data(hand_made.data, self.folder / "data", say, saved=saved)
            if saved and trained_on:
                self.data.check_rows(trained_on, "give the same rows, or another --workdir")
            if "validation" not in self.data.splits:
                raise UserError(f"{self.data.directory}: has no validation rows to search by; prepare some")
            if not find_label_classes(self.data.splits["validation"], len(self.data.schema.labels)).all(axis=1).any():
                raise UserError(
                    f"{self.data.directory}: its validation rows have labels of one class, so the AUC to search by is "
                    "not defined; prepare others"
                )
            self._save()  # only now that everything has been accepted

    @property
    def _busy(self) -> str:
        return f"--workdir = {self.folder}: another process searches there; wait for it, or give another folder"

    def _claim(self) -> str:
        """Loads the search in the folder; raises a UserError if its config differs, except for name and `trials`.

        Returns:
          The fingerprint of the search's rows; empty if none was saved.
        """
        trained_on = ""
        path = self.folder / "sketch.json"
        if path.exists():
            before = self._load()
            self._kept = find_old_behaviour(before["run"])
            self.config = dataclasses.replace(self.config, run=with_keys(self.config.run, self._kept))
            old = build_sketch_config({**with_keys(before["run"], self._kept), "search": before["search"]})
            for key, (earlier, now) in list_changes(old, self.config).items():
                if key not in ("run.name", "search.trials"):
                    raise UserError(
                        f"config.{key.removeprefix('run.')} = {now!r}: the search in {self.folder} was started with "
                        f"{earlier!r}; give another --workdir"
                    )
            trained_on = before.get("data_fingerprint", "")
            self.trials = [build_dataclass(Trial, trial, f"{path}: trial") for trial in before["trials"]]
            if before["optuna"] != optuna.__version__:
                self.say(f"Optuna is {optuna.__version__}, was {before['optuna']}: the next suggestions may differ")
        return trained_on

    def _load(self) -> dict[str, Any]:
        path = self.folder / "sketch.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            fix = "give another --workdir, or put the file back"
            raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg}); {fix}") from None
        missing = {"run", "search", "optuna", "trials"} - content.keys()
        if missing:
            raise UserError(f"{path}: has no {sorted(missing)[0]!r}, so it is not a search; give another --workdir")
        return content

    def run(self) -> Trial:
        """Trains trials until their number is reached or no new point is found.

        Returns:
          The best trial.

        Raises:
          UserError: no complete trial is within the budget.
          SystemExit: code 143 or 130 after a signal; the current trial is saved and resumed at the next start.
        """
        compiled = self.folder / "compiled" / platform.node()  # the stages of a trial share a compiled program
        with hold_lock(self.folder / ".lock", self._busy), keep_programs_in(compiled):
            self._claim()  # again: another process may have continued the search
            while (trial := self._open_trial()) is not None:
                if trial.state == RUNNING:
                    trial = self._train(trial)
                    self._keep(trial)
                self.say(describe_trial(trial))
                jax.clear_caches()  # compiled programs of hundreds of trials would fill the memory
            best = choose_best(self.trials)
            if best is None:
                raise UserError(self._explain_failure())
            self._write_results(best)
            return best

    def _open_trial(self) -> Trial | None:
        """Returns the unfinished trial, or the next one, checked against the budget and saved before training."""
        if self.trials and self.trials[-1].state == RUNNING:
            return self.trials[-1]
        if sum(trial.was_trained for trial in self.trials) >= self.options.trials:
            return None
        newest = self.trials[-MOST_REFUSED:]
        if len(newest) == MOST_REFUSED and all(trial.state == REFUSED for trial in newest):
            self.say(
                f"{MOST_REFUSED} points in a row were refused, the last for {newest[-1].reason}; no more are tried"
            )
            return None
        number = len(self.trials)
        values = suggest_values(self.trials, self.options, number) if number else self.config.hand_made
        if values is None:
            self.say("no untried point was found")
            return None
        trial = self._weigh(number, values)
        self._keep(trial)
        return trial

    def _weigh(self, number: int, values: Values) -> Trial:
        """Counts FLOPs, and measures latency if it has a budget; the hand-made run is never refused."""
        try:
            config = resolve_model_options(self.config.build_run(values, str(self.data.directory)))
            run = build_run(config, self.data.schema)
            size = describe_size(run, run.abstract_state().params)
            flops = float(size["train_flops_per_example"])
            compute_objective(0.5, flops, self.options.exponent)  # refuses a model without FLOPs before training
        except UserError as error:
            if number == 0:
                raise
            return Trial(number, values, REFUSED, reason=str(error))
        reason = self.options.budget.explain_excess(flops)
        milliseconds = None
        if not reason or number == 0:
            milliseconds = self._time(run)
            reason = reason or self.options.budget.explain_excess(flops, milliseconds)
        return Trial(
            number,
            values,
            RUNNING if not reason or number == 0 else REFUSED,
            reason=reason,
            flops=flops,
            dense_parameters=size["dense_parameters"],
            milliseconds=milliseconds,
            within_budget=not reason,
        )

    def _time(self, run: Run) -> float | None:
        if self.options.budget_milliseconds is None:
            return None
        return measure_predict_milliseconds(run, self.data, self.options.latency_rows, self.options.latency_repeats)

    def _train(self, trial: Trial) -> Trial:
        config = self.config.build_run(trial.values, str(self.data.directory))
        folder = self.trial_folder(trial.number)
        folder.mkdir(parents=True, exist_ok=True)
        assert trial.flops is not None
        try:
            for rung in list_rungs(config, self.data, self.options.rungs):
                if max((step for step, _ in read_validation(folder)), default=0) < rung:
                    summary = self._train_to(config, rung, folder)
                    if summary["stopped_because"] != ALL_DONE:
                        break  # the run stopped early by itself: more steps would change nothing
                seen = [point for point in read_validation(folder) if point[0] <= rung]
                last = total_steps(config, self.data)
                earlier = self.trials[: trial.number]
                if seen and (reason := explain_stop(earlier, self.options, trial.flops, seen, last)):
                    return dataclasses.replace(trial, state=PRUNED, reason=reason, evaluations=tuple(seen))
            summary = self._train_to(config, None, folder)
        except NotFiniteLossError as error:
            seen = read_validation(folder)
            return dataclasses.replace(trial, state=PRUNED, reason=str(error), evaluations=tuple(seen))
        auc = read_number(summary["validation"].get("auc"))
        done = dataclasses.replace(
            trial,
            evaluations=tuple(read_validation(folder)),
            auc=auc,
            test=replace_nan_by_none(summary.get("test", {})),
        )
        if auc is None:
            return dataclasses.replace(done, state=PRUNED, reason="its validation AUC is not a number")
        objective = compute_objective(auc, trial.flops, self.options.exponent)
        return dataclasses.replace(done, state=COMPLETE, objective=objective)

    def _train_to(self, config: RunConfig, step: int | None, folder: Path) -> dict[str, Any]:
        """Trains a trial's run up to a step; None: to its end."""
        if step is not None:
            config = dataclasses.replace(config, training=dataclasses.replace(config.training, steps=step))
        with (folder / "log.txt").open("a", encoding="utf-8") as log, contextlib.redirect_stderr(log):
            return train_run(config, str(folder), lambda text: print(text, file=log, flush=True))

    def trial_folder(self, number: int) -> Path:
        """Returns the run folder of a trial."""
        return self.folder / "trials" / f"{number:04d}"

    def _keep(self, trial: Trial) -> None:
        self.trials = [*self.trials[: trial.number], trial]
        self._save()

    def _save(self) -> None:
        best = choose_best(self.trials)
        run = with_keys(self.config.run, {})
        drop_keys(run, self._kept)
        content = {
            **to_mapping(self.config),
            "run": run,
            "optuna": optuna.__version__,
            "data_fingerprint": self.data.fingerprint,
            "best": None if best is None else best.number,
            "trials": [to_mapping(trial) for trial in self.trials],
        }
        write_text_whole(self.folder / "sketch.json", json.dumps(replace_nan_by_none(content), indent=1) + "\n")

    def _write_results(self, best: Trial) -> None:
        """Writes the best run as `best_config.json`, a config file that reads it, and the picture of all trials."""
        text = run_config_to_json(self.config.build_run(best.values))
        write_text_whole(self.folder / "best_config.json", text)
        path = self.folder / "best_config.py"
        write_text_whole(path, _BEST_CONFIG.format(number=best.number, path=path))
        picture = draw_trials(self.trials, self.options, str(self.config.run["name"]))
        write_bytes_whole(self.folder / "sketch.png", picture)

    def _explain_failure(self) -> str:
        counted = [trial for trial in self.trials if trial.flops is not None]
        least = min(counted, key=lambda trial: trial.flops or math.inf)
        refused = sum(trial.state == REFUSED for trial in self.trials)
        return (
            f"config.search: no complete trial of {len(self.trials)} keeps the budget ({refused} were refused; the "
            f"least had {least.flops:.4g} training FLOPs per example); raise the budget or widen the space"
        )


def list_rungs(config: RunConfig, data: RunData, shares: Sequence[float]) -> list[int]:
    """Returns the steps at which a trial may be stopped: the evaluations nearest to the given shares of all steps.

    Args:
      config: config of the run.
      data: rows of the run.
      shares: shares of all steps, above 0 and below 1.

    Returns:
      Ascending steps without duplicates, each below the run's last step.
    """
    total = total_steps(config, data)
    every = config.training.evaluate_every_steps
    every = every or math.ceil(data.splits["train"].rows / config.training.batch_size)
    nearest = {max(1, round(share * total / every)) * every for share in shares}
    return sorted(step for step in nearest if step < total)


def read_validation(folder: Path) -> list[tuple[int, float]]:
    """Reads (step, validation AUC) of a run's evaluations so far, without AUCs that are NaN.

    An incomplete line of a killed run is skipped: the run resumes from its checkpoint and writes it again.
    """
    points = {}
    for line in read_metrics(folder / "metrics.jsonl"):
        auc = read_number(line.get("auc"))
        if line["split"] == "validation" and auc is not None:
            points[line["step"]] = auc
    return sorted(points.items())


def describe_trial(trial: Trial) -> str:
    """Formats the result of a trial as one line."""
    values = ", ".join(f"{_shorten(key)} {value}" for key, value in trial.values.items())
    text = f"trial {trial.number} ({values}): {trial.state}"
    if trial.flops is not None:
        text += f", {trial.flops / 1e6:.4g} MFLOP"
    if trial.milliseconds is not None:
        text += f", {trial.milliseconds:.3g} ms"
    if trial.objective is not None:
        text += f", validation AUC {trial.auc:.4f}, objective {trial.objective:.5f}"
    return text + (f" ({trial.reason})" if trial.reason else "")


def _shorten(key: str) -> str:
    """Returns the last name of a dotted key; for an element of a list, the list's name and the index."""
    names = key.split(".")
    return ".".join(names[-2:] if names[-1].isdigit() else names[-1:])

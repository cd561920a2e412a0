"""The training run: restore or start, step, evaluate, checkpoint, stop. No mathematics lives here."""

import math
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from wukong_jax.config import RunConfig
from wukong_jax.data.blocks.batch import Batch
from wukong_jax.data.blocks.loader import Position
from wukong_jax.data.blocks.loader import iterate_batches
from wukong_jax.errors import NotFiniteLossError
from wukong_jax.errors import UserError
from wukong_jax.sharding.mesh import replicated
from wukong_jax.runs.checkpoints import Checkpoints
from wukong_jax.runs.console import TrainingConsole
from wukong_jax.runs.evaluation import put_batch
from wukong_jax.runs.finish import build_predict
from wukong_jax.runs.finish import evaluate_state
from wukong_jax.runs.finish import finish_run
from wukong_jax.runs.finish import load_references
from wukong_jax.training.log_window import LogWindow
from wukong_jax.training.log_window import NotFiniteError
from wukong_jax.training.log_window import WindowSums
from wukong_jax.training.network import resolve_model_options
from wukong_jax.reports.run_report import write_report
from wukong_jax.training.run import Run
from wukong_jax.training.run import build_run
from wukong_jax.runs.rows import RunData
from wukong_jax.runs.rows import open_run_data
from wukong_jax.runs.folder import RunFolder
from wukong_jax.runs.progress import RunProgress
from wukong_jax.runs.progress import record_evaluation
from wukong_jax.runs.stop_signal import StopSignal
from wukong_jax.training.state import TrainState
from wukong_jax.training.step import StepMetrics

ALL_DONE = "all steps are done"  # the one reason to stop that asking for more steps takes back


def train(
    config: RunConfig, workdir: str, say: Callable[[str], None] = print, *, report: bool = True
) -> dict[str, Any]:
    """Trains a run, or goes on with the one its folder holds, and writes everything the folder promises.

    Args:
      config: the run.
      workdir: its folder.
      say: prints a line before the progress bar exists.
      report: whether to draw the run's own `report.html`; a sweep of hundreds of runs has one of its own.

    Returns:
      The summary, as in `summary.json`.

    Raises:
      UserError: a mistake in the config, the data or the folder, or a loss that is not finite.
      SystemExit: code 143 after SIGTERM, 130 after SIGINT; the state is saved.
    """
    folder = RunFolder(workdir)
    with folder.locked():
        return _train_locked(resolve_model_options(config), folder, say, report)


def _train_locked(config: RunConfig, folder: RunFolder, say: Callable[[str], None], report: bool) -> dict[str, Any]:
    changes = folder.claim(config)
    for key, (old, new) in changes.items():
        say(f"config.{key} changed from {old!r} to {new!r} since this run was last started")
    data = open_run_data(config.data, folder.data, say)
    run = build_run(config, data.schema, join=data.join)
    if run.mesh.size > 1:
        say(run.exchange.describe())
    total = total_steps(config, data)
    references = load_references(config, data)  # refuses a missing reference run now, not after training
    if "validation" not in data.splits:
        for key, idle in (("early_stop_patience", 0), ("plateau_factor", 1.0)):
            value = getattr(config.training, key)
            if value != idle:
                fix = f"set it to {idle} or prepare a validation split"
                raise UserError(f"config.training.{key} = {value}: the data has no validation rows; {fix}")
    checkpoints = Checkpoints(folder.checkpoints, run.exchange, config.training.keep_checkpoints)
    try:
        with StopSignal() as stop:  # from here on there is something to save
            trainer = _Trainer(run, data, folder, checkpoints, stop, total)
            summary = trainer.run_to_end(references)
            if report:
                say(f"report: {write_report(folder.path)}")
            return summary
    finally:
        checkpoints.close()


def total_steps(config: RunConfig, data: RunData) -> int:
    """Steps of the whole run: the smaller of `steps` and `epochs` worth of them."""
    per_epoch = math.ceil(data.splits["train"].rows / config.training.batch_size)
    by_epochs = None if config.training.epochs is None else config.training.epochs * per_epoch
    limits = [limit for limit in (config.training.steps, by_epochs) if limit is not None]
    return min(limits)


class _Trainer:
    """One sitting of a run: the state and the progress, moved forward step by step."""

    def __init__(
        self, run: Run, data: RunData, folder: RunFolder, checkpoints: Checkpoints, stop: StopSignal, total: int
    ):
        self.run, self.data, self.folder, self.checkpoints, self.stop = run, data, folder, checkpoints, stop
        self.config = run.config.training
        self.total = total
        self.started = time.monotonic()
        self.profiling = False

    def run_to_end(self, references: Mapping[str, Any]) -> dict[str, Any]:
        """Restores or starts, trains what is left, and writes the summary beside the references."""
        self.state, self.progress = self._restore_or_init()
        self.earlier_seconds = self.progress.wall_seconds
        self.step = int(self.state.step)
        self.folder.cut_back_metrics(self.step)
        if self.progress.stopped_because == ALL_DONE and self.step < self.total:
            self.progress = self.progress.replace(stopped_because="")  # more steps were asked for since
        with TrainingConsole(self.total, self.step, self.folder.tensorboard) as self.console:
            if self.step:
                self.console.say(f"going on from step {self.step:,} of {self.total:,}")
            if not self._is_over():
                self._train()
            self.checkpoints.wait()
            return finish_run(
                self.run, self.data, self.folder, self.checkpoints, self.step, self.progress, references, self.console
            )

    def _restore_or_init(self) -> tuple[TrainState, RunProgress]:
        newest = self.checkpoints.newest()
        fingerprint = self.data.fingerprint
        if newest is None:
            return self.run.init_state(), RunProgress(data_fingerprint=fingerprint)
        state, progress = self.checkpoints.restore(self.run.abstract_state(), newest, self.run.state_sharding)
        if progress.data_fingerprint != fingerprint:
            raise UserError(
                f"{self.data.directory}: holds other rows than this run was trained on so far; "
                "give the folder of the same rows as --config.data.path, or another --workdir"
            )
        return state, progress

    def _is_over(self) -> bool:
        if not self.progress.stopped_because and self.step >= self.total:
            self.progress = self.progress.replace(stopped_because=ALL_DONE)
        return bool(self.progress.stopped_because)

    def _train(self) -> None:
        self.folder.drop_results()
        batches = self._batches()
        batch, position = next(batches)
        on_devices = put_batch(batch, self.run.mesh)
        began = time.monotonic()
        train_step = self.run.jit_train_step().lower(self.state, on_devices).compile()
        self.console.say(f"compiled the train step in {time.monotonic() - began:.1f} s")
        self.window = LogWindow()
        try:
            while True:
                self._profile()
                self.state, metrics = train_step(self.state, on_devices)
                self._count_step(batch, position, metrics)
                self._act_between_steps(epoch_ended=position.rows_consumed == 0)
                if self._is_over():
                    break
                batch, position = next(batches)
                on_devices = put_batch(batch, self.run.mesh)
        finally:
            batches.close()
            self._stop_profile()
        self._save()

    def _batches(self) -> Generator[tuple[Batch, Position], None, None]:
        data = self.run.config.data
        return iterate_batches(
            self.data.source("train"),
            self.run.schema,
            self.config.batch_size,
            position=self.progress.position(self.run.config.seed),
            shuffle=data.shuffle,
            epochs=None,
            window_rows=data.window_rows,
            threads=data.reader_threads,
        )

    def _count_step(self, batch: Batch, position: Position, metrics: StepMetrics) -> None:
        rows = int(np.count_nonzero(batch.weight))
        self.window.add(metrics, rows)
        self.step += 1
        self.progress = self.progress.replace(
            epoch=position.epoch,
            rows_consumed=position.rows_consumed,
            examples_seen=self.progress.examples_seen + rows,
        )
        self.console.advance(self.step)

    def _act_between_steps(self, epoch_ended: bool) -> None:
        every, last = self.config.evaluate_every_steps, self.step == self.total
        if self.step % self.config.log_every_steps == 0 or last:
            self._log()
        if "validation" in self.data.splits and (last or (self.step % every == 0 if every else epoch_ended)):
            self._evaluate()
        if self.stop.received:
            self._save()
            self.checkpoints.wait()
            self.console.say(f"{self.stop.name}: saved step {self.step:,}; the same command goes on from here")
            raise SystemExit(self.stop.exit_code)
        if self.step % self.config.checkpoint_every_steps == 0:
            self._save()

    def _drain(self) -> WindowSums:
        """Waits for the steps under way and adds them to the progress; refuses a loss that is not finite."""
        try:
            sums = self.window.drain()
        except NotFiniteError as error:
            self._refuse_loss(self.step - error.steps_ago)
        self.progress = self.progress.replace(
            window_loss_sum=self.progress.window_loss_sum + sums.loss_sum,
            window_weight_sum=self.progress.window_weight_sum + sums.weight_sum,
            train_seconds=self.progress.train_seconds + sums.seconds,
            timed_examples=self.progress.timed_examples + sums.examples,
            wall_seconds=self.earlier_seconds + time.monotonic() - self.started,
        )
        return sums

    def _refuse_loss(self, step: int) -> NoReturn:
        self.checkpoints.wait()
        newest = self.checkpoints.newest()
        saved = newest and self.checkpoints.latest_step(newest)
        where = f"the checkpoint of step {saved} stays" if saved else "no checkpoint was saved before it"
        raise NotFiniteLossError(
            f"loss or gradient at step {step} is not finite; {where}; lower config.optimizer.learning_rate or "
            "config.embeddings.optimizer.learning_rate or set config.optimizer.clip_norm, in a new --workdir"
        )

    def _log(self) -> None:
        sums = self._drain()
        progress = self.progress
        line = {
            "step": self.step,
            "split": "train",
            "epoch": progress.epoch,
            "examples_seen": progress.examples_seen,
            "loss": progress.window_loss_sum / max(progress.window_weight_sum, 1e-9),
            "learning_rate": sums.learning_rate_factor * self.run.config.optimizer.learning_rate,
            "gradient_norm": sums.gradient_norm,
            "examples_per_second": sums.examples / max(sums.seconds, 1e-9),
        }
        self.progress = progress.replace(window_loss_sum=0.0, window_weight_sum=0.0)
        self.folder.append_metrics(line)
        self.console.show_train(line)

    def _evaluate(self) -> None:
        self._drain()
        evaluation = evaluate_state(self.run, self.data, build_predict(self.run, self.state), "validation")
        self.progress, best = record_evaluation(self.progress, self.config, self.step, evaluation.metrics)
        line = {"step": self.step, "split": "validation", **evaluation.metrics}
        self.folder.append_metrics(line)
        self.console.show_evaluation(line, best)
        if best:
            self.checkpoints.save(self.state, self.progress, "best")
        scale = jnp.float32(self.progress.learning_rate_scale)
        self.state = self.state.replace(learning_rate_scale=jax.device_put(scale, replicated(self.run.mesh)))
        self.window.restart_clock()

    def _save(self) -> None:
        self._drain()
        self.checkpoints.save(self.state, self.progress)
        self.window.restart_clock()

    def _profile(self) -> None:
        first, steps = self.config.profile_first_step, self.config.profile_steps
        if steps and self.step == first:
            jax.profiler.start_trace(str(self.folder.tensorboard))
            self.profiling = True
        if self.step == first + steps:
            self._stop_profile()

    def _stop_profile(self) -> None:
        if self.profiling:
            jax.block_until_ready(self.state.step)
            jax.profiler.stop_trace()
            self.profiling = False
            self.console.say(f"wrote a profile to {self.folder.tensorboard}")

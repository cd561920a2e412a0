"""Trains a run from its start or its newest checkpoint to its end, evaluates it and writes the results."""

import itertools
import math
import time
import zlib
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any

import numpy as np

from wukong_jax.config import RunConfig, run_config_to_json
from wukong_jax.data.blocks.loader import check_lanes, iterate_batches
from wukong_jax.errors import NotFiniteLossError, UserError
from wukong_jax.runs.checkpoints import Checkpoints
from wukong_jax.runs.compiled_steps import CompiledSteps
from wukong_jax.runs.console import TrainingConsole
from wukong_jax.runs.cut_off_saves import remove_cut_off_saves
from wukong_jax.runs.evaluation import put_batch
from wukong_jax.runs.finish import finish_run
from wukong_jax.runs.folder import RunFolder
from wukong_jax.runs.label_rates import check_validation, load_start_logits
from wukong_jax.runs.listeners import (
    CheckpointKeeper,
    MetricsWriter,
    Profiler,
    ProgressMeter,
    StepLog,
    TeamMarks,
    Validation,
)
from wukong_jax.runs.progress import RunProgress, go_on
from wukong_jax.runs.references import load_references, read_reference
from wukong_jax.runs.rows import RunData, open_rows_of_run
from wukong_jax.runs.stop_signal import StopSignal
from wukong_jax.runs.stop_votes import StopVotes
from wukong_jax.runs.tensorboard import TensorBoardWriter
from wukong_jax.runs.trackers import build_trackers
from wukong_jax.runs.warm_start import open_old_run, warm_start
from wukong_jax.sharding.backend import describe_slow_compiler, find_local_devices
from wukong_jax.sharding.device_order import describe_grid
from wukong_jax.sharding.mesh import build_mesh, check_batch_divides, find_own_rows
from wukong_jax.sharding.team import find_team
from wukong_jax.strict_mapping import list_changes, to_mapping
from wukong_jax.training.applied_options import check_mesh_options
from wukong_jax.training.log_window import NotFiniteError
from wukong_jax.training.loop import Listener, Listeners, PlacedBatch, RunStart, TrainLoop
from wukong_jax.training.network import resolve_model_options
from wukong_jax.training.run import Run, build_run


def train_run(
    config: RunConfig, workdir: str, say: Callable[[str], None] = print, listeners: Sequence[Listener] = ()
) -> dict[str, Any]:
    """Trains a run, or resumes the one in its folder. Writes no report, unlike `wukong_jax.train`.

    Where several processes train together, only process 0 writes, prints and has listeners, trackers included. They
    must not compute on the devices, because the other processes would not.

    Args:
      config: config of the run.
      workdir: the run's folder.
      say: prints a message before the progress bar exists.
      listeners: listeners besides the console, TensorBoard, metrics.jsonl and the config's trackers.

    Returns:
      The summary, as in `summary.json`.

    Raises:
      UserError: a mistake in the config, the data or the folder, or a loss that is not finite.
      SystemExit: with code 143 after SIGTERM and 130 after SIGINT; the state has been saved.
    """
    find_local_devices()  # fails before anything is written or prepared
    team = find_team()
    folder = RunFolder(workdir, writes=team.is_lead)
    listeners = [*build_trackers(config.training.trackers), *listeners] if team.is_lead else []
    folder.check_processes(team.count)
    with folder.locked():
        team.wait("the folder")
        folder.fetch()
        if folder.is_log:
            raise UserError(
                f"--workdir = {workdir}: holds a run of train_online; go on with it, or give another folder"
            )
        summary = _train_locked(resolve_model_options(config), folder, say if team.is_lead else say_nothing, listeners)
        return summary


def _train_locked(
    config: RunConfig, folder: RunFolder, say: Callable[[str], None], listeners: Sequence[Listener]
) -> dict[str, Any]:
    for key, (_, kept) in list_changes(config, config := folder.keep_old_behaviour(config)).items():
        say(f"config.{key} stays {kept!r}, as in the earlier version that started this run")
    find_team().check_equal("--config", _digest(config), "start all processes with the same config and changes")
    changes = folder.claim(config)
    for key, (old, new) in changes.items():
        say(f"config.{key} changed from {old!r} to {new!r} since this run was last started")
    _check_before_preparing(config, folder)
    find_team().mark("preparing the rows", busy=True)
    fix = "give the folder of the same rows as --config.data.path, or another --workdir"
    data = find_team().lead_first("the rows", lambda: open_rows_of_run(config.data, folder, say, fix))
    run = build_run(config, data.schema, join=data.join)
    if find_team().count > 1:
        for line in describe_grid(run.mesh.devices):
            say(line)
    if run.mesh.size > 1:
        say(run.exchange.describe())
        if run.config.mesh.fsdp != "none":
            say(run.describe_weights())
    references = load_references(config, data)  # fails now, not after training, if the reference run is missing
    platform = run.mesh.devices.flat[0].platform
    for warning in (
        check_validation(config.training, data),
        describe_slow_compiler(platform),
        _describe_reading(run, data),
    ):
        if warning:
            say(warning)
    find_team().mark("restoring or starting the state", busy=True)
    start = _restore_or_init(run, data, folder, say)
    folder.record_config(config)  # everything has been accepted: only now is anything of an earlier start replaced
    if find_team().is_lead:
        data.note_checked()
    if find_team().is_lead:
        removed = (
            remove_cut_off_saves(folder.checkpoints) if folder.mirror is None else folder.mirror.remove_cut_off_saves()
        )
        for message in removed:
            say(message)
    find_team().wait("the checkpoints' folder")
    with ExitStack() as stack:
        mirror = folder.mirror if find_team().is_lead else None
        keep = config.training.keep_checkpoints
        checkpoints = Checkpoints(folder.checkpoints, run.exchange, keep, mirror=mirror)
        stack.push(lambda kind, error, trace: close_checkpoints(checkpoints, kind))
        stop = stack.enter_context(StopSignal(_describe_stop))  # from here on, a signal saves a checkpoint first
        summary = _Sitting(run, data, folder, checkpoints, stop).run_to_end(start, references, listeners)
        stop.received = max(find_team().gather("stop signal", stop.received or 0)) or None
        find_team().ends_together = True
        return summary


def total_steps(config: RunConfig, data: RunData) -> int:
    """Returns the steps of the whole run: the smaller of `steps` and the steps of `epochs`."""
    per_epoch = math.ceil(data.splits["train"].rows / config.training.batch_size)
    by_epochs = None if config.training.epochs is None else config.training.epochs * per_epoch
    limits = [limit for limit in (config.training.steps, by_epochs) if limit is not None]
    return min(limits)


def _check_before_preparing(config: RunConfig, folder: RunFolder) -> None:
    """Refuses what can be refused without the rows, because preparing them may take hours."""
    mesh = build_mesh(config.mesh.hosts, config.mesh.chips)
    check_batch_divides(mesh, config.training.batch_size, "config.training.batch_size")
    check_lanes(config.data.lanes, config.training.batch_size)
    check_mesh_options(config, mesh)
    read_reference(config)
    if not folder.is_saved:
        open_old_run(config)


def close_checkpoints(checkpoints: Checkpoints, kind: type[BaseException] | None) -> None:
    """Closes the checkpoints, which waits for all processes; not after an error that the others do not know of yet."""
    if kind is None or find_team().count == 1 or find_team().ends_together:
        checkpoints.close()


def _describe_reading(run: Run, data: RunData) -> str:
    """Describes reading that grows with the number of processes; "" if this process reads its share."""
    config, blocks = run.config, data.splits["train"].num_blocks
    own = find_own_rows(run.mesh, config.training.batch_size)
    if own is None or not config.data.shuffle or blocks < find_team().count:
        return ""
    touched = len(np.unique(own * config.data.lanes // config.training.batch_size))
    if touched * config.training.batch_size <= config.data.lanes * len(own):
        return ""
    return (
        f"config.data.lanes = {config.data.lanes}: each process reads more than its share of the {blocks:,} blocks of "
        f"training rows; in a new --workdir, {run.mesh.size} lanes or a multiple give each its own"
    )


def _describe_stop(name: str) -> str:
    """Describes what a stop signal waits for, where that may be long; "" if it is a step or a process alone."""
    team = find_team()
    if team.count == 1 or team.stage.startswith("training step"):
        return ""
    return (
        f"{name}: received by {team.name} in {team.stage}; when that is done, all processes save the same step and end"
    )


def say_nothing(text: str) -> None:
    """Prints nothing; for processes beside process 0, and for trainings inside others."""


def _digest(config: RunConfig) -> str:
    return f"{zlib.crc32(run_config_to_json(config).encode()):08x}"


def _restore_or_init(run: Run, data: RunData, folder: RunFolder, say: Callable[[str], None]) -> list[Any]:
    """Returns the state and progress to start from, in a list that `run_to_end` empties; writes nothing."""
    checkpoints = Checkpoints(folder.checkpoints, run.exchange, read_only=True)
    try:
        newest = checkpoints.newest()
        found = f"{newest}/{checkpoints.latest_step(newest)}" if newest else "none"
        find_team().check_equal("checkpoint", found, "give all processes the same --workdir, in shared storage")
        find_team().check_equal("fingerprint of the rows", data.fingerprint, "give all processes the same rows")
        if newest is None:
            start = load_start_logits(data) if run.config.training.start_at_rate else None
            state, old = run.init_state(start), open_old_run(run.config)
            if old is not None:
                state, taken = warm_start(old, run, data, state)
                say(taken)
            return [state, RunProgress(data_fingerprint=data.fingerprint)]
        state, progress = checkpoints.restore(run.abstract_state(), newest, run.state_sharding)
        return [state, progress.replace(data_fingerprint=data.fingerprint)]  # perhaps one of an earlier version before
    finally:
        checkpoints.close()


class _Sitting:
    """Trains a run in one process, from its start or its newest checkpoint to its end."""

    def __init__(self, run: Run, data: RunData, folder: RunFolder, checkpoints: Checkpoints, stop: StopSignal):
        self._run, self._data, self._folder, self._checkpoints = run, data, folder, checkpoints
        self._votes = StopVotes(run.mesh, stop)
        self._total = total_steps(run.config, data)
        self._started = time.monotonic()

    def run_to_end(
        self, start_from: list[Any], references: Mapping[str, Any], others: Sequence[Listener]
    ) -> dict[str, Any]:
        """Trains the remaining steps, and evaluates and writes the summary, which includes the references.

        Args:
          start_from: state and progress; the list is emptied, because the steps donate the state's buffers.
          references: test metrics to compare with.
          others: listeners besides the built-in ones.
        """
        state, progress = start_from
        start_from.clear()
        first_step = int(state.step)
        self._folder.cut_back_metrics(first_step)
        progress, onwards = go_on(progress, self._run.config.training, first_step, self._total)
        meter = ProgressMeter(progress, self._started)
        members = [MetricsWriter(self._folder), TrainingConsole(), TensorBoardWriter(), *others]
        listeners = Listeners([meter, *members] if find_team().is_lead else [meter])
        config = self._run.config
        with closing(listeners):
            folder = self._folder
            start = RunStart(config.name, folder.path, to_mapping(config), first_step, self._total, folder.name)
            listeners.on_start(start)
            if first_step:
                listeners.on_message(onwards)
            loop = TrainLoop(state, self._total, listeners, progress.stopped_because)
            del state  # the loop's steps donate its buffers
            if not loop.is_over():
                self._train(loop, meter, listeners)
            self._checkpoints.wait()
            progress = meter.progress.replace(stopped_because=loop.stopped_because)
            return finish_run(
                self._run, self._data, self._folder, self._checkpoints, loop.step, progress, references, listeners
            )

    def _train(self, loop: TrainLoop, meter: ProgressMeter, listeners: Listeners) -> None:
        run, training = self._run, self._run.config.training
        keeper = CheckpointKeeper(self._checkpoints, training.checkpoint_every_steps, meter, self._votes, listeners)
        profile = (training.profile_first_step, training.profile_steps, self._folder.tensorboard)
        listeners.members += [
            StepLog(run, meter, listeners),
            Validation(run, self._data, meter, self._checkpoints, listeners),
            keeper,
            TeamMarks(),
        ]
        if find_team().is_lead:
            listeners.members.append(Profiler(*profile, listeners))
        self._folder.drop_results()
        with closing(self._place_batches(meter.progress)) as batches:
            first = next(batches)
            find_team().mark("compiling the train step", busy=True)
            self._checkpoints.prepare(loop.state)
            train_step = CompiledSteps(run, meter, listeners)
            train_step.compile(loop.state, first.columns)
            find_team().mark("the first training step")
            feed = itertools.chain([first], batches)
            del first  # frees its arrays after its step
            try:
                loop.run(train_step, feed)
                meter.progress = meter.progress.replace(stopped_because=loop.stopped_because)
                keeper.save(loop)
            except NotFiniteError as error:
                raise self._describe_bad_loss(loop.step - error.steps_ago) from error

    def _place_batches(self, progress: RunProgress) -> Generator[PlacedBatch, None, None]:
        """Yields the remaining training batches, on the devices."""
        run, data = self._run, self._run.config.data
        batches = iterate_batches(
            self._data.source("train"),
            run.schema,
            run.config.training.batch_size,
            position=progress.position(run.config.seed),
            shuffle=data.shuffle,
            epochs=None,
            window_rows=data.window_rows,
            lanes=data.lanes,
            threads=data.reader_threads,
            own_rows=find_own_rows(run.mesh, run.config.training.batch_size),
        )
        with closing(batches):
            for batch, position in batches:
                batch, bags = run.fit_bags(batch)
                placed = self._votes.cast(put_batch(batch, run.mesh), batch.weight, position)
                yield placed._replace(bags=bags)

    def _describe_bad_loss(self, step: int) -> NotFiniteLossError:
        self._checkpoints.wait()
        newest = self._checkpoints.newest()
        saved = newest and self._checkpoints.latest_step(newest)
        where = f"the checkpoint of step {saved} stays" if saved else "no checkpoint was saved before it"
        return NotFiniteLossError(
            f"loss or gradient at step {step} is not finite; {where}; lower config.optimizer.learning_rate or "
            "config.embeddings.optimizer.learning_rate or set config.optimizer.clip_norm, in a new --workdir"
        )

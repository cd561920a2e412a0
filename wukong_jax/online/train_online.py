"""Trains a run on a log: each period is scored with what was known before it, then trained on.

Several processes read the whole log and change equal id maps by it, since both depend on the log alone; each trains and
scores its rows of every batch. A signal to one ends all before the next period.
"""

import math
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np

from wukong_jax.config import RunConfig
from wukong_jax.data.blocks.batch import Batch, Columns
from wukong_jax.data.blocks.loader import Position, iterate_batches
from wukong_jax.data.raw.bad_rows import BadRows
from wukong_jax.data.raw.builtin_schemas import find_schema
from wukong_jax.data.raw.id_map import advance_id_map, count_rows, empty_id_map
from wukong_jax.embeddings.reset_rows import reset_rows
from wukong_jax.errors import NotFiniteLossError, UserError
from wukong_jax.files.object_store import refuse_store
from wukong_jax.online.log_periods import LogPeriod, LogReader, count_values, encode_period
from wukong_jax.online.memory_blocks import MemoryBlocks
from wukong_jax.online.period_scores import add_period, compute_start, measure_unknown
from wukong_jax.online.resolved_log import resolve_log_schema
from wukong_jax.online.rules import build_rules, check_config
from wukong_jax.online.settings import OnlineSettings
from wukong_jax.online.stored_periods import LogProgress, load_period, remove_periods, save_period
from wukong_jax.runs.checkpoints import Checkpoints
from wukong_jax.runs.compiled_steps import CompiledSteps
from wukong_jax.runs.evaluation import build_predict, evaluate_split, put_batch
from wukong_jax.runs.finish import summarise
from wukong_jax.runs.folder import RunFolder
from wukong_jax.runs.listeners import MetricsWriter, ProgressMeter, StepLog
from wukong_jax.runs.progress import RunProgress
from wukong_jax.runs.rows import RunData, open_prepared_rows
from wukong_jax.runs.stop_signal import StopSignal
from wukong_jax.runs.train_run import close_checkpoints, say_nothing
from wukong_jax.sharding.mesh import batch_sharding, find_own_rows
from wukong_jax.sharding.team import find_team
from wukong_jax.training.log_window import NotFiniteError
from wukong_jax.training.loop import Listener, Listeners, PlacedBatch, TrainLoop
from wukong_jax.training.network import resolve_model_options
from wukong_jax.training.run import Run, build_run
from wukong_jax.training.state import TrainState, table_key
from wukong_jax.training.step import StepMetrics

Say = Callable[[str], None]
AfterPeriod = Callable[[Run, TrainState, Mapping[str, Any]], None]
SPLIT = "progressive"  # of the lines in metrics.jsonl


def train_online(
    config: RunConfig, settings: OnlineSettings, workdir: str | Path, say: Say = print, wait: float = 0.0
) -> dict[str, Any]:
    """Trains on a log, or goes on where a run on it stopped.

    Args:
      config: config of the run; `config.data.path` names the log. Each period is passed `config.training.epochs` times
        (1 if not given).
      settings: kind of periods, and rows of the tables.
      workdir: the run's folder.
      say: prints a message.
      wait: seconds to wait for new files after the last one.

    Returns:
      The summary, as in `summary.json`.

    Raises:
      UserError: a mistake in the config, the log or the folder, or a loss that is not finite.
      SystemExit: with code 143 after SIGTERM and 130 after SIGINT; the state after the last whole period is saved.
    """
    check_config(config)
    refuse_store("--workdir", workdir, "a run on a log needs a folder of this machine")
    team = find_team()
    if wait and team.count > 1:
        raise UserError(
            f"--wait = {wait:g}: {team.count} processes may see a new file at different times; leave it out, and start "
            "them again when the file is there"
        )
    folder = RunFolder(workdir, writes=team.is_lead)
    with folder.locked():
        team.wait("the folder")
        config = resolve_model_options(config)
        folder.claim_log(config, settings)
        team.wait("the settings")
        with ExitStack() as stack:
            stop = stack.enter_context(StopSignal())
            training = LogTraining(config, settings, folder, stop, say if team.is_lead else say_nothing)
            stack.push(lambda kind, error, trace: training.close(kind))
            training.run(wait)
            summary = training.finish()
            team.wait("the summary")
            team.ends_together = True
            return summary


class LogTraining:
    """One process that trains on a log."""

    def __init__(
        self, config: RunConfig, settings: OnlineSettings, folder: RunFolder, stop: StopSignal, say: Say
    ) -> None:
        """Restores the state of an earlier process, if there is one."""
        self._config, self._folder, self._stop, self._say = config, folder, stop, say
        self._schema = find_schema(config.data.schema)
        self._rules = build_rules(settings, self._schema)
        self._settings = settings
        self._log, self._maps = LogProgress(), {name: empty_id_map() for name in self._rules}
        self._started = time.monotonic()
        self._run: Run | None = None
        self._state: TrainState | None = None
        self._data: RunData | None = None
        self._checkpoints: Checkpoints | None = None
        self._steps: CompiledSteps | None = None
        self._messages = Listeners([_Messages(say)])
        self._meter = ProgressMeter(RunProgress(), self._started)
        newest = folder.newest_log_data()
        if newest is not None:
            self._data = open_prepared_rows(config.data, newest, say)
            self._maps, self._log = load_period(newest, self._data.schema)
            run = build_run(self._config, self._data.schema)
            self._state, progress = self._restore(run)
            self._open(run)
            self._meter.progress = progress
            self._meter = ProgressMeter(progress, self._started)
            folder.cut_back_metrics(int(self._state.step))
            say(f"going on after {self._log.place.name}, step {int(self._state.step)}")
        folder.record_config(config)

    def close(self, kind: type[BaseException] | None) -> None:
        """Closes the checkpoints, which waits for all processes; not after an error that the others do not know of."""
        if self._checkpoints is not None:
            close_checkpoints(self._checkpoints, kind)

    def _restore(self, run: Run) -> tuple[TrainState, RunProgress]:
        find_team().mark("restoring the state", busy=True)
        checkpoints = Checkpoints(self._folder.checkpoints, run.exchange, read_only=True)
        try:
            state, progress = checkpoints.restore(run.abstract_state(), "latest", run.state_sharding)
        finally:
            checkpoints.close()
        find_team().check_equal("restored step", f"{int(state.step)}", "give all processes the same --workdir")
        return state, progress

    def run(self, wait: float) -> None:
        """Scores and trains on all periods, until no new file has come for `wait` seconds."""
        on_bad_row = self._config.data.options["on_bad_row"]
        reader = LogReader(self._schema, self._config.data.path, self._settings.period, on_bad_row)
        last = time.monotonic()
        while True:
            with closing(reader.read(self._log.place)) as periods:
                for period in periods:
                    self._take(period, BadRows(on_bad_row))
                    last = time.monotonic()
            if time.monotonic() - last >= wait:
                return
            self._check_stop()
            time.sleep(min(1.0, wait))

    def _take(self, period: LogPeriod, bad_rows: BadRows) -> None:
        """Scores a period, changes the id maps by it, trains on it, and saves."""
        self._check_stop()
        name, scores, scored = period.place.name, None, None
        find_team().check_equal("next period", f"{period.place}, {period.rows} rows", "give all processes the same log")
        find_team().mark(f"scoring {name}", busy=True)
        before = dict(self._maps)
        if self._run is not None:
            columns = encode_period(period, self._run.schema, before, bad_rows.start_again())
            if len(columns["weight"]):
                scores, scored = self._score(columns)
            unknown = measure_unknown(columns["ids"], self._run.schema)
        else:
            self._start(period)
        assert self._run is not None
        evicted = self._advance(period)
        columns = encode_period(period, self._run.schema, self._maps, bad_rows)
        if not len(columns["weight"]):
            return
        if self._state is None:
            self._state = self._run.init_state(compute_start(columns, self._run.schema))
        elif evicted:
            tables = reset_rows(self._run.exchange, self._state.tables, table_key(self._config.seed), evicted)
            self._state = self._state.replace(tables=tables)
        scored_step = int(self._state.step)
        self._train(columns)
        line: dict[str, Any] = {"step": int(self._state.step), "split": SPLIT, "scored_step": scored_step}
        line |= {"period": name, "trained_rows": len(columns["weight"])}
        line |= {f"{table}/table_rows": count_rows(ids) + 1 for table, ids in self._maps.items()}
        line |= {f"{table}/evicted": len(rows) for table, rows in evicted.items()}
        if scores is not None:
            line |= {**scores, **unknown}
            self._say(
                f"{name}: {len(columns['weight']):,} rows, log loss {scores['log_loss']:.5f}, AUC {scores['auc']:.5f}, "
                f"calibration {scores['calibration']:.3f}"
            )
        else:
            self._say(
                f"{name}: {len(columns['weight']):,} rows, the first; nothing was known before to score them with"
            )
        self._folder.append_metrics(line)
        self._log = add_period(self._log, period, scores, period.skipped + bad_rows.count)
        self._save(columns, scored)

    def _start(self, period: LogPeriod) -> None:
        """Builds the run, whose means, deviations and domains are those of the first period."""
        resolved = resolve_log_schema(self._schema, period, {name: rule.rows for name, rule in self._rules.items()})
        self._open(build_run(self._config, resolved))

    def _open(self, run: Run) -> None:
        """Takes a run, and opens its checkpoints to write them."""
        self._run = run
        keep = self._config.training.keep_checkpoints
        self._checkpoints = Checkpoints(self._folder.checkpoints, run.exchange, keep)

    def _score(self, columns: Columns) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Returns the metrics of a period, and its rows with their logits."""
        run, state = self._run, self._state
        assert run is not None
        assert state is not None
        source, size = MemoryBlocks(columns), run.evaluation_batch_size
        exact = self._config.training.exact_auc_rows
        batches: list[dict[str, np.ndarray]] = []

        def keep(batch: Batch, logits: Any) -> None:
            parts = {name: np.asarray(getattr(batch, name)) for name in ("labels", "label_mask", "weight")}
            batches.append(parts | {"logits": np.asarray(logits)})

        predict = build_predict(run, state)
        metrics = evaluate_split(
            predict, source, run.schema, size, run.mesh, exact, keep, run.place_bags, all_rows=True
        ).metrics
        rows = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        if batch_sharding(run.mesh).is_fully_addressable:  # in order, with padding at the end
            return metrics, {name: array[: source.rows] for name, array in rows.items()}
        return metrics, {name: array[rows["weight"] > 0] for name, array in rows.items()}

    def _advance(self, period: LogPeriod) -> dict[str, np.ndarray]:
        """Changes the id maps by a period; returns the rows that lost their value to another one."""
        evicted = {}
        for name, rule in self._rules.items():
            seen = count_values(period, self._schema, name)
            self._maps[name], changes = advance_id_map(self._maps[name], seen, self._log.periods, rule)
            if len(changes.evicted):
                evicted[name] = changes.evicted
        return evicted

    def _train(self, columns: Columns) -> None:
        """Passes the rows of a period; the state is replaced."""
        run, state = self._run, self._state
        assert run is not None
        assert state is not None
        source, training = MemoryBlocks(columns), self._config.training
        passes = training.epochs or 1
        steps = passes * math.ceil(source.rows / training.batch_size)
        first_step = int(state.step)
        writer = MetricsWriter(self._folder)
        listeners = Listeners([self._meter, StepLog(run, self._meter, writer)])
        listeners.members.append(_TeamMarks() if find_team().count > 1 else _StopAtSignal(self._check_stop))
        loop = TrainLoop(state, first_step + steps, listeners)
        del state
        self._state = None  # its buffers are donated
        if self._steps is None:
            self._steps = CompiledSteps(run, self._meter, self._messages)
        self._meter.restart_clock()
        try:
            with closing(self._place_batches(source, passes)) as batches:
                loop.run(self._steps, batches)
            self._meter.drain()
        except NotFiniteError as error:
            raise NotFiniteLossError(
                f"loss or gradient at step {loop.step - error.steps_ago} is not finite; the state after "
                f"{self._log.place.name or 'no period'} is saved; lower config.optimizer.learning_rate or "
                "config.embeddings.optimizer.learning_rate or set config.optimizer.clip_norm, in a new --workdir"
            ) from error
        self._state = loop.state

    def _place_batches(self, source: MemoryBlocks, passes: int) -> Generator[PlacedBatch, None, None]:
        run, data = self._run, self._config.data
        assert run is not None
        first = self._log.periods * passes  # each period has an order of its own
        batches = iterate_batches(
            source,
            run.schema,
            self._config.training.batch_size,
            position=Position(epoch=first, seed=self._config.seed, rows_consumed=0),
            shuffle=data.shuffle,
            epochs=first + passes,
            window_rows=data.window_rows,
            threads=data.reader_threads,
            own_rows=find_own_rows(run.mesh, self._config.training.batch_size),
        )
        with closing(batches):
            for batch, position in batches:
                batch, bags = run.fit_bags(batch)
                rows = int((batch.weight > 0).sum())
                yield PlacedBatch(put_batch(batch, run.mesh), rows, position, bags=bags)

    def _save(self, columns: Columns, scored: Mapping[str, np.ndarray] | None) -> None:
        """Saves what belongs to the state after a period, then the state."""
        run, state, checkpoints = self._run, self._state, self._checkpoints
        assert run is not None
        assert state is not None
        assert checkpoints is not None
        step = int(state.step)
        folder = self._folder.data / str(step)
        find_team().mark("writing the period's rows", busy=True)
        if find_team().is_lead:
            save_period(folder, run.schema, self._maps, columns, scored, self._log)
        find_team().wait("the period's rows")
        self._data = open_prepared_rows(self._config.data, folder, self._say)
        self._meter.progress = self._meter.progress.replace(
            data_fingerprint=self._data.fingerprint, epoch=self._log.periods, rows_consumed=0
        )
        checkpoints.save(state, self._meter.progress)
        checkpoints.wait()
        if find_team().is_lead:
            remove_periods(self._folder.data, keep=self._folder.saved_steps())
        self._meter.restart_clock()

    def _check_stop(self) -> None:
        """Ends the processes after a stop signal to one; a period under way is taken again by the next ones."""
        received = max(find_team().gather("stop signal", self._stop.received or 0))
        if received:
            find_team().ends_together = True
            self._say(f"stopped; the state after {self._log.place.name or 'no period'} is saved; run again to go on")
            raise SystemExit(128 + received)

    def finish(self) -> dict[str, Any]:
        """Writes and returns the summary.

        Raises:
          UserError: the log has no rows.
        """
        if self._run is None or self._state is None or self._data is None:
            raise UserError(f"config.data.path = {self._config.data.path!r}: the log has no rows yet")
        step, log = int(self._state.step), self._log
        progress = self._meter.progress.replace(stopped_because=f"the log ends with {log.place.name}")
        summary = summarise(self._run, self._data, step, progress, self._state)
        summary |= {
            "periods": log.periods,
            "last_period": log.place.name,
            "skipped_rows": log.skipped_rows,
            "table_rows": {name: count_rows(ids) + 1 for name, ids in self._maps.items()},
            "best_step": None,
        }
        if log.scored_rows:
            summary[SPLIT] = {
                "auc": log.auc_sum / log.auc_rows if log.auc_rows else math.nan,
                "log_loss": log.log_loss_sum / log.scored_rows,
                "calibration": log.predicted_clicks / log.clicks if log.clicks else math.nan,
                "rows": log.scored_rows,
            }
        self._folder.write_json("summary.json", summary)
        return summary


class _StopAtSignal(Listener):
    """Calls a function after each step."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check

    def after_step(self, loop: TrainLoop, batch: PlacedBatch, metrics: StepMetrics) -> None:
        self._check()


class _TeamMarks(Listener):
    """Tells the other processes which step this one takes; the first of a period may be compiled."""

    def __init__(self) -> None:
        self._taken = 0

    def before_step(self, loop: TrainLoop) -> None:
        find_team().mark(f"training step {loop.step + 1}", busy=not self._taken)
        self._taken += 1


class _Messages(Listener):
    """Prints messages."""

    def __init__(self, say: Say) -> None:
        self._say = say

    def on_message(self, text: str) -> None:
        self._say(text)

"""Saves and restores checkpoints with Orbax: the dense state, the tables in logical layout, and the run's progress.

A checkpoint stores tables, not stacks: `tables/<table>/<array>` holds the rows of one vocabulary in id order,
regardless of how tables are stacked on the devices. Several processes, of which none holds a whole table, store the
stacks and a list of what lies where instead (`stored_stacks`). Both can be restored with another stacking or number of
devices and processes. `latest/` holds the newest checkpoints, `best/` the one with the best evaluation. Orbax writes to
a temporary folder and renames it, so the last complete checkpoint survives a kill at any moment. `checkpoint_items`
says what a checkpoint holds, and `checkpoint_content` checks it before and after it is read.
"""

import contextlib
import functools
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp

from wukong_jax.embeddings.exchange import Exchange
from wukong_jax.errors import UserError
from wukong_jax.files.object_store import name_on_store
from wukong_jax.files.system_errors import describe_system_error
from wukong_jax.messages import first_line
from wukong_jax.runs.checkpoint_content import check_content, check_sizes
from wukong_jax.runs.checkpoint_items import copy_arrays, find_items, pack_copies, pack_in_place, take_dense
from wukong_jax.runs.checkpoint_managers import open_manager, open_plain, without_warnings
from wukong_jax.runs.placed_arrays import place_arrays
from wukong_jax.runs.progress import RunProgress
from wukong_jax.runs.row_digests import compile_digests
from wukong_jax.runs.store_mirror import StoreMirror
from wukong_jax.runs.stored_stacks import PIECES, describe_stacks, open_stored_tables
from wukong_jax.sharding.team import find_team
from wukong_jax.training.run import Run
from wukong_jax.training.state import TrainState

Which = Literal["latest", "best"]
_COPIES = 2  # saves that may wait for the writing thread, each with a copy of the state


class Checkpoints:
    """The checkpoints of one run. Saving is asynchronous; a best checkpoint is committed before a later latest one.

    `save` only copies the state. Digests and Orbax's own preparation, which take longer than a step, run on a thread.
    """

    def __init__(
        self,
        folder: Any,
        exchange: Exchange,
        keep: int = 2,
        read_only: bool = False,
        mirror: StoreMirror | None = None,
    ):
        """Opens the folder.

        Args:
          folder: `<workdir>/checkpoints`, a pathlib.Path, or an epath.Path on gs://.
          exchange: exchange that converts between the tables on the devices and the logical layout.
          keep: number of latest checkpoints to keep; one best checkpoint is kept.
          read_only: create and delete nothing, as evaluation requires.
          mirror: where the run is on an object store, its mirror in the process that writes the small files. They are
            put before each save; checkpoints, too, unless they are on gs://.
        """
        self._exchange, self._folder, self._keep, self._mirror = exchange, folder, keep, mirror
        self._managers: dict[Which, Any] = {"latest": None, "best": None}
        self._paths: dict[Which, Any] = {}
        self._failed = False  # whether the storage has failed
        self._writer = ThreadPoolExecutor(1, "checkpoints")
        self._started: deque[Future[None]] = deque()  # saves whose failure has not been looked for yet, oldest first
        self._held = contextlib.ExitStack()
        with contextlib.ExitStack() as opening:
            opening.callback(self._held.close)
            with self._writing("latest"):
                if not read_only:
                    folder.mkdir(parents=True, exist_ok=True)
                if not read_only or folder.is_dir():  # on a store there is no folder before its first object
                    plain = self._held.enter_context(open_plain(folder))
                    counts: dict[Which, int] = {"latest": keep, "best": 1}
                    for which, count in counts.items():
                        self._paths[which] = plain / which
                        meet = functools.partial(self._meet, which)
                        self._managers[which] = open_manager(plain / which, count, read_only, meet)
            opening.pop_all()

    def prepare(self, state: TrainState) -> None:
        """Starts compiling, on the thread, what several processes run when they save: the first save need not wait."""
        if find_team().count > 1:
            described = describe_stacks(state.tables)  # now, because the next step takes the arrays
            self._started.append(self._writer.submit(compile_digests, described))

    def save(self, state: TrainState, progress: RunProgress, which: Which = "latest") -> None:
        """Starts saving a copy of the state; the caller may donate its buffers at once.

        Raises:
          UserError: this save, or the one before, cannot be written, for example because the disk is full.
        """
        if self._managers[which] is None:
            return
        while self._started and (self._started[0].done() or len(self._started) >= _COPIES):
            self._started.popleft().result()
        step = int(state.step)
        if find_team().count > 1:  # no copy to wait with, and Orbax's own waits must come in one order everywhere
            find_team().mark(f"saving step {step}", busy=True)
            self._write(which, step, lambda: pack_in_place(self._exchange, state), progress.to_json())
            return
        collect = functools.partial(pack_copies, copy_arrays(self._exchange, state))
        self._started.append(self._writer.submit(self._write, which, step, collect, progress.to_json()))

    def _write(self, which: Which, step: int, collect: Callable[[], dict[str, Any]], progress: Any) -> None:
        """Starts writing what `collect` returns; one process runs it on the thread."""
        manager = self._managers[which]
        if self._failed or step in manager.all_steps():
            return  # the failure will be raised; a resumed run saved the same state at this step before
        if which == "latest" and self._managers["best"] is not None:
            # The progress may refer to a best checkpoint still being written. If a kill lost it, the resumed run would
            # never save it again.
            with self._writing("best"):
                self._managers["best"].wait_until_finished()
        items = collect() | {"progress": ocp.args.JsonSave(progress)}
        with self._writing(which):
            if self._mirror is not None:
                self._mirror.push()  # whoever goes on from this step needs the lines before it
            manager.save(step, args=ocp.args.Composite(**items))
            if self._mirror is not None and not self._in_place:
                manager.wait_until_finished()
                self._mirror.publish_checkpoint(which, self._keep if which == "latest" else 1)

    def _meet(self, which: Which, *, key: str, timeout_ms: int) -> None:
        """Waits for the other processes, as Orbax's threads do when they have written this one's part of a save.

        A thread that has failed comes here, too, before its failure is seen by anyone; so it is told at once.
        """
        error = sys.exc_info()[1]
        if error is not None:
            line = self._explain(which, error) or f"{self._folder / which}: {first_line(error)[:300]}"
            find_team().fail(f"error: {line}", 1)
        find_team().meet(key, timeout_ms)

    @property
    def _in_place(self) -> bool:
        return name_on_store(str(self._folder))

    def _finish_started(self) -> None:
        """Waits until the thread is idle, and raises its first failure."""
        while self._started:
            self._started.popleft().result()

    def latest_step(self, which: Which = "latest") -> int | None:
        """Returns the newest saved step, or None."""
        self._finish_started()
        manager = self._managers[which]
        return None if manager is None else manager.latest_step()

    def newest(self) -> Which | None:
        """Returns which kind of checkpoint is the newest, or None; after a kill, it may be the best one."""
        saved = {which: self.latest_step(which) for which in self._managers}
        steps = {which: step for which, step in saved.items() if step is not None}
        return max(steps, key=lambda which: steps[which], default=None)

    def restore(self, abstract_state: TrainState, which: Which, sharding: TrainState) -> tuple[TrainState, RunProgress]:
        """Restores the newest checkpoint.

        Args:
          abstract_state: a TrainState of shapes and dtypes; its tables are ignored.
          which: "latest" or "best".
          sharding: a TrainState with the sharding of each array.

        Raises:
          UserError: there is no checkpoint, or it does not fit the network.
        """
        dense, logical, progress = self.read(abstract_state, which)
        with _reading(f"checkpoints/{which}/{self.latest_step(which)}"):
            tables = self._exchange.import_tables(logical)
            return place_arrays(abstract_state.replace(tables=tables, **dense), sharding), progress

    def read(self, abstract_state: TrainState, which: Which) -> tuple[dict[str, Any], Any, RunProgress]:
        """Reads the newest checkpoint to the host.

        Args:
          abstract_state: a TrainState of shapes and dtypes; its tables are ignored.
          which: "latest" or "best".

        Returns:
          The dense part by the names of TrainState's fields; the tables as `Exchange.import_tables` takes them, which
          are read when they are indexed if several processes saved them; and the progress.

        Raises:
          UserError: there is no checkpoint, or it does not fit the network.
        """
        manager, step = self._managers[which], self.latest_step(which)
        if manager is None or step is None:
            raise UserError(f"checkpoints/{which}: holds no checkpoint; train first")
        folder, stacks = self._paths[which] / str(step), self._exchange.layout.stacks
        abstract = take_dense(abstract_state)
        with _reading(f"checkpoints/{which}/{step}"):
            with without_warnings():
                check_sizes(folder, abstract, self._exchange.layout)
            items = find_items(folder, abstract, bool(stacks))
            restored = manager.restore(step, args=ocp.args.Composite(**items))
            arrays: dict[str, Any] = {name: restored[name] for name in ("dense", "tables") if name in items}
            check_content(arrays, restored["digests"] if "digests" in items else None)
            logical: Any
            if PIECES in items:
                logical = open_stored_tables(folder, restored[PIECES], self._exchange.layout)
            else:
                logical = jax.tree.map(np.asarray, restored["tables"]) if stacks else {}
            return restored["dense"], logical, RunProgress.from_json(restored["progress"])

    def wait(self) -> None:
        """Waits until everything passed to `save` is on disk.

        Raises:
          UserError: something could not be written, for example because the disk is full.
        """
        self._finish_started()
        find_team().mark("finishing the checkpoints", busy=True)
        for which, manager in self._managers.items():
            if manager is not None:
                with self._writing(which):
                    manager.wait_until_finished()

    def close(self) -> None:
        """Waits for saving to finish, then releases the folders.

        Raises:
          UserError: see `wait`.
        """
        with self._held, contextlib.ExitStack() as stack:
            for which, manager in self._managers.items():
                if manager is not None:
                    stack.callback(self._close_one, which, manager)
            stack.callback(self._writer.shutdown)
            self._finish_started()

    def _close_one(self, which: Which, manager: Any) -> None:
        # Orbax raises the failure of an earlier save again. If the same exception were raised twice, it would be in the
        # context of its own context, and an ExitStack would look for the end of that chain forever.
        with contextlib.suppress(UserError) if self._failed else contextlib.nullcontext(), self._writing(which):
            manager.close()

    @contextlib.contextmanager
    def _writing(self, which: Which) -> Iterator[None]:
        """Converts failures of the storage to a UserError of one line; the state saved before them stays."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            line = self._explain(which, error)
            if line is None:
                raise
            self._failed = True
            raise UserError(line) from error

    def _explain(self, which: Which, error: BaseException) -> str | None:
        """Describes a failure of the storage; None if the exception has another cause."""
        reason = describe_system_error(error)
        if reason is None:
            return None if not self._in_place else f"{self._folder / which}: cannot write ({first_line(error)[:300]})"
        return (
            f"{self._folder / which}: cannot write ({reason}); free space or make the folder writable, then the same "
            "command goes on"
        )


def restore_best(run: Run, checkpoints: Checkpoints) -> TrainState:
    """Restores the state with the best evaluation, or the latest state if there was no evaluation."""
    which: Which = "best" if checkpoints.latest_step("best") is not None else "latest"
    state, _ = checkpoints.restore(run.abstract_state(), which, run.state_sharding)
    return state


def read_newest_progress(folder: Any) -> RunProgress | None:
    """Reads the progress of the newest checkpoint without its arrays.

    Args:
      folder: `<workdir>/checkpoints`, as `Checkpoints` takes it.

    Returns:
      The progress; None if there is no checkpoint.

    Raises:
      UserError: it cannot be read.
    """
    if not folder.is_dir():
        return None
    with open_plain(folder) as plain:
        return _read_newest_progress(plain, folder)


def _read_newest_progress(plain: Any, folder: Any) -> RunProgress | None:
    managers = [open_manager(plain / which, 1, read_only=True) for which in ("latest", "best")]
    opened = [manager for manager in managers if manager is not None]
    try:
        saved = [manager for manager in opened if manager.latest_step() is not None]
        if not saved:
            return None
        newest = max(saved, key=lambda manager: manager.latest_step())
        step = newest.latest_step()
        with _reading(f"{folder}, the progress of step {step}"):
            restored = newest.restore(step, args=ocp.args.Composite(progress=ocp.args.JsonRestore()))
            return RunProgress.from_json(restored["progress"])
    finally:
        for manager in opened:
            manager.close()


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Converts whatever orbax and tensorstore raise for foreign or damaged files to a UserError of one line."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    except Exception as error:
        reason = first_line(error)[:300]
        raise UserError(f"{name}: does not fit this run's network, or is damaged ({reason})") from error

"""Saves and restores checkpoints with Orbax: the dense state, the tables in logical layout, and the run's progress.

A checkpoint stores tables, not stacks: `tables/<table>/<array>` holds the rows of one vocabulary in id order,
regardless of how tables are stacked on the devices. It can therefore be restored with another stacking or number of
devices. `latest/` holds the newest checkpoints, `best/` the one with the best evaluation. Orbax writes to a temporary
folder and renames it, so the last complete checkpoint survives a kill at any moment.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging as absl_logging

from wukong_jax.embeddings.exchange import Exchange
from wukong_jax.errors import UserError
from wukong_jax.runs.progress import RunProgress
from wukong_jax.training.run import Run
from wukong_jax.training.state import TrainState

Which = Literal["latest", "best"]


class Checkpoints:
    """The checkpoints of one run. Saving is asynchronous; a best checkpoint is committed before a later latest one."""

    def __init__(self, folder: Path, exchange: Exchange, keep: int = 2, read_only: bool = False):
        """Opens the folder.

        Args:
          folder: `<workdir>/checkpoints`.
          exchange: exchange that converts between the tables on the devices and the logical layout.
          keep: number of latest checkpoints to keep; one best checkpoint is kept.
          read_only: create and delete nothing, as evaluation requires.
        """
        self._exchange = exchange
        self._managers: dict[Which, Any] = {
            "latest": _open_manager(folder / "latest", keep, read_only),
            "best": _open_manager(folder / "best", 1, read_only),
        }

    def save(self, state: TrainState, progress: RunProgress, which: Which = "latest") -> None:
        """Starts saving a copy of the state; the caller may donate its buffers at once."""
        step = int(state.step)
        manager = self._managers[which]
        if manager is None or step in manager.all_steps():
            return  # a resumed run saved the same state at this step before
        if which == "latest" and self._managers["best"] is not None:
            # The progress may refer to a best checkpoint still being written. If a kill lost it, the resumed run would
            # never save it again.
            self._managers["best"].wait_until_finished()
        items = {
            "dense": ocp.args.StandardSave(jax.tree.map(np.array, _dense_part(state))),
            "progress": ocp.args.JsonSave(progress.to_json()),
        }
        if self._exchange.layout.stacks:  # Orbax refuses an empty item
            items["tables"] = ocp.args.StandardSave(self._exchange.export_tables(state.tables))
        manager.save(step, args=ocp.args.Composite(**items))

    def latest_step(self, which: Which = "latest") -> int | None:
        """Returns the newest saved step, or None."""
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
        manager, step = self._managers[which], self.latest_step(which)
        if manager is None or step is None:
            raise UserError(f"checkpoints/{which}: holds no checkpoint; train first")
        template = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), _dense_part(abstract_state))
        items = {"dense": ocp.args.StandardRestore(template), "progress": ocp.args.JsonRestore()}
        if self._exchange.layout.stacks:
            items["tables"] = ocp.args.StandardRestore()
        try:
            restored = manager.restore(step, args=ocp.args.Composite(**items))
        except (ValueError, KeyError, TypeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"checkpoints/{which}/{step}: does not fit this run's network ({reason})") from error
        logical = jax.tree.map(np.asarray, restored["tables"]) if self._exchange.layout.stacks else {}
        tables = self._exchange.import_tables(logical)
        state = abstract_state.replace(tables=tables, **restored["dense"])
        return jax.device_put(state, sharding), RunProgress.from_json(restored["progress"])

    def wait(self) -> None:
        """Waits until everything passed to `save` is on disk, and raises the errors of saving."""
        for manager in self._managers.values():
            if manager is not None:
                manager.wait_until_finished()

    def close(self) -> None:
        """Waits for saving to finish, then releases the folders."""
        for manager in self._managers.values():
            if manager is not None:
                manager.close()


def restore_best(run: Run, checkpoints: Checkpoints) -> TrainState:
    """Restores the state with the best evaluation, or the latest state if there was no evaluation."""
    which: Which = "best" if checkpoints.latest_step("best") is not None else "latest"
    state, _ = checkpoints.restore(run.abstract_state(), which, run.state_sharding)
    return state


def read_newest_progress(folder: Path) -> RunProgress | None:
    """Reads the progress of the newest checkpoint without its arrays.

    Args:
      folder: `<workdir>/checkpoints`.

    Returns:
      The progress; None if there is no checkpoint.

    Raises:
      UserError: it cannot be read.
    """
    managers = [_open_manager(folder / which, 1, read_only=True) for which in ("latest", "best")]
    opened = [manager for manager in managers if manager is not None]
    try:
        saved = [manager for manager in opened if manager.latest_step() is not None]
        if not saved:
            return None
        newest = max(saved, key=lambda manager: manager.latest_step())
        step = newest.latest_step()
        try:
            restored = newest.restore(step, args=ocp.args.Composite(progress=ocp.args.JsonRestore()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"{folder}: the progress of step {step} cannot be read ({reason})") from None
        return RunProgress.from_json(restored["progress"])
    finally:
        for manager in opened:
            manager.close()


def _open_manager(folder: Path, keep: int, read_only: bool) -> Any:
    if read_only and not folder.exists():
        return None
    with _without_warnings():  # orbax warns of each option that reading leaves without an effect
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=not read_only, read_only=read_only, cleanup_tmp_directories=not read_only
        )
        return ocp.CheckpointManager(folder.absolute(), options=options, item_names=("dense", "tables", "progress"))


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    before = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        yield
    finally:
        absl_logging.set_verbosity(before)


def _dense_part(state: TrainState) -> dict[str, Any]:
    names = ["step", "params", "optimizer_state", "learning_rate_scale", "key"]
    names += ["statistics"] if state.statistics else []  # checkpoints of models without statistics have no such key
    return {name: getattr(state, name) for name in names}

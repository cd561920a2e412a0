"""A finished (or interrupted) run opened for scoring."""

import dataclasses
import sys

from wukong_jax.config import ExchangeConfig
from wukong_jax.config import MeshConfig
from wukong_jax.errors import UserError
from wukong_jax.runs.checkpoints import Checkpoints
from wukong_jax.runs.finish import restore_best
from wukong_jax.training.run import Run
from wukong_jax.training.run import build_run
from wukong_jax.runs.rows import RunData
from wukong_jax.runs.rows import open_run_data
from wukong_jax.runs.rows import prepared_directory
from wukong_jax.runs.folder import RunFolder
from wukong_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class OpenRun:
    """A run's parts, its rows, and the state it is judged by."""

    run: Run
    data: RunData
    state: TrainState


def open_run(workdir: str, data_path: str | None = None) -> OpenRun:
    """Restores the best state of a run (the latest, where nothing was validated).

    Args:
      workdir: the run's folder.
      data_path: read row blocks from here instead of where the config says, if they have moved.

    Raises:
      UserError: the folder holds no run, no checkpoint, or its rows are gone.
    """
    folder = RunFolder(workdir)
    # Scoring uses the devices that are here, whatever mesh and placement the run was trained on.
    config = dataclasses.replace(folder.load_config(), mesh=MeshConfig(), exchange=ExchangeConfig())
    if data_path is not None:
        if config.data.format != "blocks":
            raise UserError(f"--data = {data_path!r}: this run's rows lie in {folder.data}; leave the flag out")
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, path=data_path))
    directory = prepared_directory(config.data, folder.data)
    if not directory.exists():
        raise UserError(f"{directory}: the run's prepared rows are gone; put them back or give --data=FOLDER")
    data = open_run_data(config.data, folder.data, say=lambda text: print(text, file=sys.stderr))
    run = build_run(config, data.schema, join=data.join)
    checkpoints = Checkpoints(folder.checkpoints, run.exchange, read_only=True)
    try:
        return OpenRun(run, data, restore_best(run, checkpoints))
    finally:
        checkpoints.close()

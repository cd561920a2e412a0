"""Joins the processes that run a command together, as its flags or a cluster's variables name them."""

from collections.abc import Iterable

from wukong_jax.cli.settings import TeamFlags
from wukong_jax.runs.folder import RunFolder
from wukong_jax.sharding.cluster_place import find_place
from wukong_jax.sharding.team import start_team


def join_team(settings: TeamFlags, stall_limit: float) -> None:
    """Starts JAX over the processes of a command; does nothing if this one is alone.

    Args:
      settings: the command's flags.
      stall_limit: `config.training.stall_limit`.

    Raises:
      UserError: a flag is wrong, or the processes do not meet.
    """
    place = find_place(settings.coordinator, settings.processes, settings.process)
    if place is not None or settings.local_devices is not None:
        start_team(place, settings.local_devices, stall_limit)


def join_team_of_run(settings: TeamFlags, workdir: str, allow_factories: Iterable[str]) -> None:
    """Joins the processes that score the run in a folder, whose config has the stall limit; see `join_team`.

    Raises:
      UserError: see `join_team` and `RunFolder.load_config`.
    """
    place = find_place(settings.coordinator, settings.processes, settings.process)
    if place is not None or settings.local_devices is not None:
        join_team(
            settings, RunFolder(workdir).fetch(checkpoints=False).load_config(allow_factories).training.stall_limit
        )

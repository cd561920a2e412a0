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


def take_part(settings: TeamFlags) -> tuple[int, int]:
    """Finds which part of independent work is this process's, without a word to the others; each keeps its own devices.

    Args:
      settings: the command's flags.

    Returns:
      (number of this process, number of processes); (0, 1) if it is alone.

    Raises:
      UserError: a flag is wrong.
    """
    told = settings.processes is not None and settings.process is not None
    place = find_place(settings.coordinator or ("nobody:1" if told else ""), settings.processes, settings.process)
    if settings.local_devices is not None:
        start_team(None, settings.local_devices, 0.0)
    if place is None:
        return 0, 1
    if place.gpu_ids:
        import jax

        jax.config.update("jax_cuda_visible_devices", ",".join(map(str, place.gpu_ids)))
        jax.config.update("jax_rocm_visible_devices", ",".join(map(str, place.gpu_ids)))
    return place.process, place.processes


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

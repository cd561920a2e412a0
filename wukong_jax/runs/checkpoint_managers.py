"""Opens Orbax's managers of checkpoints, for one process or for several that write together."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import orbax.checkpoint as ocp
from absl import logging as absl_logging

from wukong_jax.files.object_store import name_on_store
from wukong_jax.files.plain_path import plain_path
from wukong_jax.runs.checkpoint_items import ITEMS
from wukong_jax.runs.stored_stacks import STACKS
from wukong_jax.sharding.team import find_team


def open_plain(folder: Any) -> Any:
    """Returns the context of `plain_path`; a URL is read as it is."""
    return contextlib.nullcontext(folder) if name_on_store(str(folder)) else plain_path(folder)


def open_manager(folder: Any, keep: int, read_only: bool, meet: Callable[..., None] | None = None) -> Any:
    """Opens the checkpoints of one kind.

    Args:
      folder: their folder, a plain path or an epath.Path on gs://.
      keep: how many to keep.
      read_only: create and delete nothing.
      meet: waits for the other processes; called with `key` and `timeout_ms` by Orbax's threads.

    Returns:
      Orbax's manager; None if there is no folder to read.
    """
    if read_only and not folder.exists():
        return None
    processes = _choose_processes(folder.name, read_only)
    # Trained numbers hardly compress, and a compressed part would be a copy of it.
    stacks = ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=processes)
    with without_warnings():  # orbax warns of each option that reading leaves without an effect
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            create=not read_only,
            read_only=read_only,
            cleanup_tmp_directories=not read_only,
            multiprocessing_options=processes,
            async_options=ocp.options.AsyncOptions(barrier_sync_fn=meet) if find_team().count > 1 else None,
        )
        return ocp.CheckpointManager(folder, options=options, item_names=ITEMS, item_handlers={STACKS: stacks})


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Silences what Orbax logs below errors."""
    before = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        yield
    finally:
        absl_logging.set_verbosity(before)


def _choose_processes(name: str, read_only: bool) -> Any:
    """Lets all processes write together, and each read alone, without waiting for the others."""
    team = find_team()
    if team.count == 1:
        return ocp.options.MultiprocessingOptions()
    if read_only:
        own, prefix = team.index, f"{name}_{team.index}"
        return ocp.options.MultiprocessingOptions(
            primary_host=own, active_processes={own}, barrier_sync_key_prefix=prefix
        )
    return ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=name)

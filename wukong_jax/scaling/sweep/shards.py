"""Trains a sweep on several machines with a common file system, each training one shard."""

import re
import time
from collections.abc import Callable

from wukong_jax.errors import UserError
from wukong_jax.scaling.sweep.sweep import Sweep

WAIT_SECONDS = 30.0  # between checks of other shards' units


def parse_shard(text: str) -> tuple[int, int]:
    """Parses "i/n" into (i, n).

    Raises:
      UserError: the text has another form, or i is out of range.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise UserError(f"--shard = {text!r}: expected i/n with i from 0 to n - 1, such as 0/4")
    return int(match[1]), int(match[2])


def train_shard(sweep: Sweep, shard: int, shards: int, wait: bool, say: Callable[[str], None]) -> None:
    """Trains the units of a shard, including those that must wait until other shards have ended their searches.

    Args:
      sweep: the sweep.
      shard: index of the shard.
      shards: number of shards.
      wait: whether to wait for other shards' searches; if not, units that depend on them are left out.
      say: prints a line.
    """
    while sweep.run(shard, shards) and not sweep.failed:
        searching = sweep.searching()
        names = ", ".join(searching)
        if not wait:
            say(f"left for a later start: the curves of {names}, whose searches other shards have not ended")
            return
        say(f"waiting for other shards to end their searches of {names}; they must run, too")
        while sweep.searching() == searching and sweep.next_unit(shard, shards) is None:
            time.sleep(WAIT_SECONDS)

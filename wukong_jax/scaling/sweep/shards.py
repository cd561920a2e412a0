"""One sweep trained by several machines over one file system: each trains its shard."""

import re
import time
from collections.abc import Callable

from wukong_jax.errors import UserError
from wukong_jax.scaling.sweep.sweep import Sweep

WAIT_SECONDS = 30.0  # between two looks at other shards' units


def parse_shard(text: str) -> tuple[int, int]:
    """The numbers of "i/n".

    Raises:
      UserError: another text, or i out of range.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise UserError(f"--shard = {text!r}: expected i/n with i from 0 to n - 1, such as 0/4")
    return int(match[1]), int(match[2])


def train_shard(sweep: Sweep, shard: int, shards: int, wait: bool, say: Callable[[str], None]) -> None:
    """Trains a shard's part; what waits for other shards' searches too, once those have ended.

    Args:
      sweep: the whole.
      shard: which part.
      shards: how many parts there are.
      wait: False: end instead of waiting for other shards' searches.
      say: prints a line.
    """
    while sweep.run(shard, shards) and not sweep.failed:
        searching = sweep.searching()
        names = ", ".join(searching)
        if not wait:
            say(f"left for a later start: the curves of {names}, whose searches other shards have not ended")
            return
        say(f"waiting for other shards to end their searches of {names}; they must run, too")
        while sweep.searching() == searching:
            time.sleep(WAIT_SECONDS)

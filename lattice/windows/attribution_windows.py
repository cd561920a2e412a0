"""Attribution windows of delayed objectives, and the one that each impression is judged by (Lattice 3.2.1, Zipper).

A conversion counts within window W where it comes at most W seconds after its impression. Of the windows
W_1 < .. < W_K each impression gets one: its signature (user, item, timestamp) is hashed to a number in [0, 1), which
falls into one of K stretches as long as the windows' shares pi. So the window needs no table, is the same in every
process and on every day, and repeats with the signature. Windows in use and shares are not published; equal shares
are said to be typical. The defaults here are the windows that are given as an example, and equal shares.
"""

import dataclasses
import itertools
import re
from typing import Annotated

import numpy as np

from wukong_jax.data.raw.stable_hash import mix64
from wukong_jax.errors import UserError
from wukong_jax.ranges import AtLeast, check_ranges

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}  # seconds
_LONGEST_SECONDS = 10 * 365 * _UNITS["d"]


@dataclasses.dataclass(frozen=True)
class AttributionWindows:
    """K windows and how often each is drawn."""

    names: tuple[str, ...] = ("90m", "1d", "7d")  # a whole number and a unit (s, m, h, d, w), ascending
    shares: tuple[float, ...] = ()  # pi, one a window, above 0, sum 1; empty: equal
    seed: Annotated[int, AtLeast(0)] = 0  # of the hash

    def __post_init__(self) -> None:
        """Refuses windows out of order and shares under which a window would never be drawn."""
        if not self.names:
            raise UserError("windows = (): at least one, as 1h,1d,7d")
        for (one, seconds), (other, longer) in itertools.pairwise(zip(self.names, self.seconds, strict=True)):
            if seconds >= longer:
                raise UserError(f"windows = {','.join(self.names)}: {other} after {one}; windows must ascend")
        check_ranges(self)
        if not self.shares:
            return
        text = ",".join(f"{share:g}" for share in self.shares)
        if len(self.shares) != len(self.names):
            raise UserError(f"shares = {text}: {len(self.shares)} for {len(self.names)} windows; give one a window")
        if not all(share > 0 for share in self.shares):
            raise UserError(f"shares = {text}: each must be above 0; leave out a window that is not to be drawn")
        if not abs(sum(self.shares) - 1) < 1e-6:
            raise UserError(f"shares = {text}: of sum {sum(self.shares):g}; must be 1")

    @property
    def seconds(self) -> tuple[int, ...]:
        """The windows' lengths, ascending."""
        return tuple(parse_window(name) for name in self.names)

    @property
    def drawing_shares(self) -> tuple[float, ...]:
        """The shares pi, equal where none were given."""
        return self.shares or (1 / len(self.names),) * len(self.names)


def parse_window(name: str) -> int:
    """The seconds of a window's name.

    Args:
      name: a whole number and a unit, as "90m" or "7d".

    Returns:
      Seconds, from 1 to ten years.

    Raises:
      UserError: another text, or a length out of range.
    """
    match = re.fullmatch(r"([0-9]{1,12})([smhdw])", name)
    if match is None:
        raise UserError(f"window {name!r}: expected a whole number and one of s, m, h, d, w, as 90m or 7d")
    seconds = int(match[1]) * _UNITS[match[2]]
    if not 1 <= seconds <= _LONGEST_SECONDS:
        raise UserError(f"window {name!r}: {seconds} seconds; from 1 second to ten years")
    return seconds


def draw_windows(signatures: np.ndarray, windows: AttributionWindows) -> np.ndarray:
    """The window of each impression, a function of its signature, the seed and the shares alone.

    Args:
      signatures: [B, n] integers: what identifies an impression, its timestamp among it.
      windows: which, how often, and the seed.

    Returns:
      [B] int32, from 0 to K - 1.
    """
    state = np.full(len(signatures), mix64(np.array([windows.seed % 2**64], np.uint64))[0])
    for values in signatures.T:
        state = mix64(state ^ values.astype(np.int64).view(np.uint64))
    uniform = (state >> np.uint64(11)).astype(np.float64) * 2.0**-53
    # All bounds but the last, which is 1: shares that add up to a little less leave no gap above it.
    bounds = np.cumsum(windows.drawing_shares)[:-1]
    return np.searchsorted(bounds, uniform, side="right").astype(np.int32)

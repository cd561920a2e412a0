"""Attribution windows of delayed objectives, and the assignment of one to each impression (Lattice 3.2.1, Zipper).

A conversion counts within window W if it comes at most W seconds after its impression. Each impression gets one of the
windows W_1 < .. < W_K: its signature (user, item, timestamp) is hashed to a number in [0, 1), which falls into one of K
intervals whose lengths are the windows' shares pi. So the assignment needs no table, is the same in every process and
on every day, and equal signatures get equal windows. The windows and shares in production are not published; equal
shares are said to be typical. The defaults here are the windows given as an example, and equal shares.
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
    """K windows and the share of impressions that each gets."""

    names: tuple[str, ...] = ("90m", "1d", "7d")  # a whole number and a unit (s, m, h, d, w), ascending
    shares: tuple[float, ...] = ()  # pi, one per window, above 0, sum 1; empty: equal
    seed: Annotated[int, AtLeast(0)] = 0  # of the hash

    def __post_init__(self) -> None:
        """Checks that windows ascend, and that shares are positive and sum to 1."""
        if not self.names:
            raise UserError("windows = (): at least one, such as 1h,1d,7d")
        for (one, seconds), (other, longer) in itertools.pairwise(zip(self.names, self.seconds, strict=True)):
            if seconds >= longer:
                raise UserError(f"windows = {','.join(self.names)}: {other} after {one}; windows must ascend")
        check_ranges(self)
        if not self.shares:
            return
        text = ",".join(f"{share:g}" for share in self.shares)
        if len(self.shares) != len(self.names):
            raise UserError(f"shares = {text}: {len(self.shares)} for {len(self.names)} windows; give one each")
        if not all(share > 0 for share in self.shares):
            raise UserError(f"shares = {text}: each must be above 0; leave out a window that is not to be drawn")
        if not abs(sum(self.shares) - 1) < 1e-6:
            raise UserError(f"shares = {text}: of sum {sum(self.shares):g}; must be 1")

    @property
    def seconds(self) -> tuple[int, ...]:
        """Lengths of the windows, ascending."""
        return tuple(parse_window(name) for name in self.names)

    @property
    def drawing_shares(self) -> tuple[float, ...]:
        """The shares pi; equal if none were given."""
        return self.shares or (1 / len(self.names),) * len(self.names)


def parse_window(name: str) -> int:
    """Returns the length of a window in seconds.

    Args:
      name: a whole number and a unit, such as "90m" or "7d".

    Returns:
      Seconds, from 1 to ten years.

    Raises:
      UserError: the name has another form, or the length is out of range.
    """
    match = re.fullmatch(r"([0-9]{1,12})([smhdw])", name)
    if match is None:
        raise UserError(f"window {name!r}: expected a whole number and one of s, m, h, d, w, such as 90m or 7d")
    seconds = int(match[1]) * _UNITS[match[2]]
    if not 1 <= seconds <= _LONGEST_SECONDS:
        raise UserError(f"window {name!r}: {seconds} seconds; from 1 second to ten years")
    return seconds


def draw_windows(signatures: np.ndarray, windows: AttributionWindows) -> np.ndarray:
    """Draws the window of each impression; it depends only on the signature, the seed and the shares.

    Args:
      signatures: [B, n] integers that identify each impression, including its timestamp.
      windows: the windows, their shares, and the seed.

    Returns:
      [B] int32, from 0 to K - 1.
    """
    state = np.full(len(signatures), mix64(np.array([windows.seed % 2**64], np.uint64))[0])
    for values in signatures.T:
        state = mix64(state ^ values.astype(np.int64).view(np.uint64))
    uniform = (state >> np.uint64(11)).astype(np.float64) * 2.0**-53
    # The last bound, 1, is left out: shares that sum to slightly less than 1 leave no gap below it.
    bounds = np.cumsum(windows.drawing_shares)[:-1]
    return np.searchsorted(bounds, uniform, side="right").astype(np.int32)

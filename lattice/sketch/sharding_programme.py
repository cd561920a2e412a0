"""Dynamic program of Lattice Sketch, solved exactly: the sharding of each layer under a memory limit.

The recursion for layer l, memory r and strategies s is from a note on the paper. The note prints the index l on both
sides, a misprint corrected here:

    OPT[l, r] = min over s of OPT[l-1, r - R(s)] + T(s) + C(s)

R is the memory of a layer, T its time, and C the cost of changing the strategy. C depends on two layers, so the state
must include the strategy of the previous layer: OPT[l, r, s] with C(previous, s). Memory need not be discretised: for
each (l, s) the time is a step function of r, so it is enough to keep the Pareto front of (memory, time) pairs. This is
exact, with memory in whole bytes.

Letters: L layers, S strategies.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from wukong_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class ShardingProblem:
    """Costs of every layer under every strategy."""

    seconds: np.ndarray  # [L, S] float64: T, time of a layer in a train step
    memory_bytes: np.ndarray  # [L, S] int64: R, memory of a layer on one chip
    change_seconds: np.ndarray  # [S, S] float64: C, cost of changing from the row's strategy to the column's

    def __post_init__(self) -> None:
        """Checks shapes and signs."""
        layers, strategies = self.seconds.shape
        if not layers or not strategies:
            raise ValueError(f"{layers} layers and {strategies} strategies: at least one of each")
        if self.memory_bytes.shape != (layers, strategies) or self.change_seconds.shape != (strategies, strategies):
            raise ValueError(
                f"memory {self.memory_bytes.shape}, changes {self.change_seconds.shape}: not of {layers} x {strategies}"
            )
        if not np.issubdtype(self.memory_bytes.dtype, np.integer) or (self.memory_bytes < 0).any():
            raise ValueError("memory_bytes: whole numbers, at least 0")
        if not (np.isfinite(self.seconds).all() and np.isfinite(self.change_seconds).all()):
            raise ValueError("seconds: must be finite")


class ShardingPlan(NamedTuple):
    """A strategy for every layer, and their total costs."""

    strategies: tuple[int, ...]  # L indices
    seconds: float
    memory_bytes: int


class _Front(NamedTuple):
    """Pareto front of plans for the layers so far whose last layer has one strategy, by rising memory, falling time."""

    memory: np.ndarray  # [n] int64
    seconds: np.ndarray  # [n] float64
    strategy: np.ndarray  # [n], strategy of the previous layer
    place: np.ndarray  # [n], index in the front of that strategy


def find_sharding(problem: ShardingProblem, limit_bytes: int, step_bytes: int = 1) -> ShardingPlan:
    """Finds the fastest strategies whose total memory is within a limit.

    Args:
      problem: costs of the layers.
      limit_bytes: memory limit of one chip.
      step_bytes: the memory of each layer is rounded up to a multiple of this. 1: exact. A larger step bounds the work
        when all layers differ (at most limit / step pairs per strategy). The limit is still respected, but a faster
        plan that barely fits may be missed.

    Returns:
      The plan; of equally fast ones, the one with less memory. Its memory is exact, not rounded.

    Raises:
      UserError: no plan fits; the message names the memory needed.
    """
    if step_bytes < 1:
        raise UserError(f"step_bytes = {step_bytes}: at least 1")
    memory = -(-problem.memory_bytes.astype(np.int64) // step_bytes) * step_bytes
    needed = memory.min(axis=1)
    if needed.sum() > limit_bytes:
        rounded = f", each rounded up to {step_bytes:,}" if step_bytes > 1 else ""
        raise UserError(
            f"memory limit = {limit_bytes:,} bytes: {len(needed)} layers need at least {int(needed.sum()):,}{rounded}; "
            "give more memory or chips, or a smaller model"
        )
    after = needed.sum() - np.cumsum(needed)  # least memory of all layers after each one
    fronts = [[_start(problem, memory, s, limit_bytes - after[0]) for s in range(problem.seconds.shape[1])]]
    for layer in range(1, len(needed)):
        fronts.append(
            [
                _extend(problem, memory, fronts[-1], layer, s, limit_bytes - after[layer])
                for s in range(problem.seconds.shape[1])
            ]
        )
    return _read_back(problem, fronts)


def _start(problem: ShardingProblem, memory: np.ndarray, strategy: int, room: int) -> _Front:
    size = int(memory[0, strategy] <= room)
    nothing = np.zeros(size, np.int64)
    return _Front(memory[:1, strategy][:size], problem.seconds[:1, strategy][:size], nothing, nothing)


def _extend(
    problem: ShardingProblem, memory: np.ndarray, before: list[_Front], layer: int, strategy: int, room: int
) -> _Front:
    """Builds the front of the next layer under a strategy from the fronts of the previous layer."""
    made = [
        _Front(
            front.memory + memory[layer, strategy],
            front.seconds + problem.seconds[layer, strategy] + problem.change_seconds[previous, strategy],
            np.full(len(front.memory), previous),
            np.arange(len(front.memory)),
        )
        for previous, front in enumerate(before)
    ]
    together = _Front(*(np.concatenate(columns) for columns in zip(*made, strict=True)))
    fits = together.memory <= room
    return _keep_unbeaten(_Front(*(column[fits] for column in together)))


def _keep_unbeaten(front: _Front) -> _Front:
    order = np.lexsort((front.seconds, front.memory))
    seconds = front.seconds[order]
    fastest_before = np.concatenate([[np.inf], np.minimum.accumulate(seconds)[:-1]]) if len(order) else seconds
    kept = order[seconds < fastest_before]
    return _Front(*(column[kept] for column in front))


def _read_back(problem: ShardingProblem, fronts: list[list[_Front]]) -> ShardingPlan:
    ends = [(f.seconds[-1], f.memory[-1], s) for s, f in enumerate(fronts[-1]) if len(f.memory)]
    seconds, _, strategy = min(ends)
    place = len(fronts[-1][strategy].memory) - 1
    chosen = []
    for layer in reversed(range(len(fronts))):
        chosen.append(strategy)
        front = fronts[layer][strategy]
        strategy, place = int(front.strategy[place]), int(front.place[place])
    chosen.reverse()
    memory = int(problem.memory_bytes[np.arange(len(chosen)), chosen].sum())
    return ShardingPlan(tuple(chosen), float(seconds), memory)

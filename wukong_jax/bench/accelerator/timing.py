"""Times programs on a device: calls are dispatched one after the other, and only the last is waited for."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def time_calls(call: Callable[[], Any], rounds: int, calls: int) -> list[float]:
    """Returns the seconds of one call in each round, after one round that is not timed.

    Args:
      call: dispatches a program and returns its results; programs run in the order of their calls.
      rounds: repetitions.
      calls: calls of a repetition, which hide the time of the dispatch.
    """
    seconds = []
    for repeat in range(rounds + 1):
        start = time.perf_counter()
        for _ in range(calls):
            result = call()
        jax.block_until_ready(result)
        if repeat:
            seconds.append((time.perf_counter() - start) / calls)
    return seconds


def describe_times(seconds: list[float]) -> dict[str, float]:
    """Returns the median and the minimum in milliseconds."""
    return {"median_ms": round(float(np.median(seconds)) * 1e3, 4), "minimum_ms": round(min(seconds) * 1e3, 4)}

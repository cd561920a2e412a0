"""Random streams named by numbers, so that any part of the data can be drawn alone and is always the same."""

import numpy as np


def open_stream(*words: int) -> np.random.Generator:
    """The counter-based stream of these numbers (a seed, a purpose, an index): other numbers give an unrelated one."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))

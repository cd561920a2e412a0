"""Random streams identified by numbers, so that any part of the data can be drawn alone and reproducibly."""

import numpy as np


def open_stream(*words: int) -> np.random.Generator:
    """Returns the counter-based random stream identified by the given numbers (a seed, a purpose, an index)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))

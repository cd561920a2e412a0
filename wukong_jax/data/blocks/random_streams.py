"""Random streams identified by numbers, so that any part of the data can be drawn alone and reproducibly."""

import numpy as np


def open_stream(*words: int) -> np.random.Generator:
    """Returns the random stream of the given numbers (a seed, a purpose, an index); other numbers are independent."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))

"""Measures the speed of plain matrix products, which bounds that of a train step."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SIZE, PRODUCTS = 2048, 12


def measure_gemm(multiply: Callable[[Any, Any], Any], left: Any, right: Any) -> float:
    """Returns GFLOP/s of a product of two [SIZE, SIZE] float32 matrices, by the fastest of a few."""
    seconds = []
    for _ in range(PRODUCTS):
        start = time.perf_counter()
        multiply(left, right)
        seconds.append(time.perf_counter() - start)
    return round(2 * SIZE**3 / min(seconds) / 1e9, 1)


def draw_matrices() -> tuple[np.ndarray, np.ndarray]:
    """Draws two [SIZE, SIZE] float32 matrices."""
    random = np.random.default_rng(0)
    left, right = random.standard_normal((2, SIZE, SIZE), np.float32)
    return left, right


def measure_xla_gemm() -> float:
    """Returns GFLOP/s of XLA's product, compiled as in our step."""
    product = jax.jit(jnp.matmul)
    left, right = map(jnp.asarray, draw_matrices())
    return measure_gemm(lambda a, b: jax.block_until_ready(product(a, b)), left, right)

"""Times plain matrix products, which bound a step, and train steps of three sizes in float32 and bfloat16."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wukong_jax.bench.accelerator.sizes import Cases, Row, Size, StepCase
from wukong_jax.bench.accelerator.step_runs import build_step_run, draw_step_batch
from wukong_jax.bench.accelerator.timing import describe_times, time_calls
from wukong_jax.runs.evaluation import put_batch
from wukong_jax.training.size import count_flops

DTYPES = ("float32", "bfloat16")


def list_cases(size: Size) -> Cases:
    """Returns the stage's cases: products first, whose speed is then the peak of their dtype."""
    peaks: dict[str, float] = {}
    cases: Cases = {f"product {dtype}": functools.partial(measure_product, size, dtype, peaks) for dtype in DTYPES}
    cases["product float32 highest"] = functools.partial(measure_product, size, "float32", {}, "highest")
    for dtype, name in itertools.product(DTYPES, size.steps):
        cases[f"{name} {dtype}"] = functools.partial(measure_step, size, size.steps[name], dtype, peaks)
    return cases


def measure_product(size: Size, dtype: str, peaks: dict[str, float], precision: str = "default") -> Row:
    """Measures products of square matrices.

    Args:
      size: gives the sizes of the matrices.
      dtype: dtype of the factors and the product.
      peaks: gets the TFLOP/s of the fastest size, by dtype.
      precision: precision of float32 products; by default, some accelerators round the factors.
    """
    best: Row = {"tflop_per_second": 0.0}
    for n in size.products:
        factors = jax.random.normal(jax.random.key(0), (2, n, n), jnp.dtype(dtype))
        product = jax.jit(functools.partial(jnp.matmul, precision=precision))
        seconds = time_calls(functools.partial(product, *factors), size.rounds, size.calls)
        speed = 2 * n**3 / min(seconds) / 1e12
        if speed > best["tflop_per_second"]:
            best = {"n": n, **describe_times(seconds), "tflop_per_second": round(speed, 4)}
    peaks[dtype] = best["tflop_per_second"]
    return best


def measure_step(size: Size, case: StepCase, dtype: str, peaks: dict[str, float]) -> Row:
    """Times the step of a case on one batch, which lies on the device.

    Args:
      size: gives the repetitions.
      case: the model and its batch.
      dtype: dtype of the dense model's products.
      peaks: TFLOP/s of plain products by dtype; without the case's own, no share is told.
    """
    run = build_step_run(case, dtype)
    state, batch = run.init_state(), put_batch(draw_step_batch(run), run.mesh)
    step = run.jit_train_step().lower(state, batch).compile()
    metrics: Any = None

    def once() -> Any:
        nonlocal state, metrics
        state, metrics = step(state, batch)
        return metrics

    seconds = time_calls(once, size.rounds, size.calls)
    flops, median = count_flops(run)["train_flops_per_example"] * case.batch, float(np.median(seconds))
    row = {
        "batch": case.batch,
        "width": case.width,
        "parts": run.count_parts(),
        **describe_times(seconds),
        "examples_per_second": round(case.batch / median),
        "model_gflop": round(flops / 1e9, 4),
        "tflop_per_second": round(flops / median / 1e12, 4),
        "finite": bool(metrics["finite"] == 1),
    }
    if dtype in peaks:
        row["share_of_peak"] = round(flops / median / 1e12 / peaks[dtype], 4)
    return row

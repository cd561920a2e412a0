"""Latency of a model's predict step on the local devices."""

import statistics
import time

import jax

from wukong_jax.data.blocks.loader import Position, iterate_batches
from wukong_jax.errors import UserError
from wukong_jax.runs.evaluation import build_predict, put_batch
from wukong_jax.runs.rows import RunData
from wukong_jax.sharding.mesh import check_batch_divides
from wukong_jax.training.run import Run


def measure_predict_milliseconds(run: Run, data: RunData, rows: int, repeats: int) -> float:
    """Measures the median time of the compiled predict step on one batch, including tables and exchange.

    The batch is already on the devices, and the first call, which compiles, is not counted. The weights are newly
    initialised, since the time does not depend on them.

    Args:
      run: the model; its tables are created here.
      data: rows with a validation split.
      rows: batch size B; a shorter split is padded.
      repeats: number of timed calls.

    Returns:
      Milliseconds.

    Raises:
      UserError: there are no validation rows, or `rows` is not divisible by the devices of the mesh.
    """
    check_batch_divides(run.mesh, rows, "config.search.latency_rows")
    if "validation" not in data.splits:
        raise UserError(f"{data.directory}: has no validation rows to time a predict step on; prepare some")
    start = Position(epoch=0, seed=0, rows_consumed=0)
    batches = iterate_batches(data.source("validation"), run.schema, rows, position=start, shuffle=False, epochs=1)
    batch, _ = next(batches)
    batches.close()
    on_devices = put_batch(batch, run.mesh)
    predict = build_predict(run, run.init_state())
    jax.block_until_ready(predict(on_devices))
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(predict(on_devices))
        seconds.append(time.perf_counter() - began)
    return 1e3 * statistics.median(seconds)

"""How long a model's predict step takes, on the devices that are here."""

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
    """Median time of the compiled predict step, tables and exchange included, over one batch of validation rows.

    The batch lies on the devices already and the first call, which compiles, is not counted. Weights are the initial
    ones: time does not depend on them.

    Args:
      run: the model; tables are made for it.
      data: with a validation split.
      rows: B of the batch; a shorter split is padded.
      repeats: timings.

    Returns:
      Milliseconds.

    Raises:
      UserError: no validation rows, or rows that the mesh does not divide.
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

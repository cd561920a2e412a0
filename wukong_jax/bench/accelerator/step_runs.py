"""Builds the runs whose steps are timed."""

from typing import Any

from wukong_jax.bench.accelerator.sizes import StepCase
from wukong_jax.bench.train_step import COLUMNS, build_bench_schema, draw_batch
from wukong_jax.config import build_run_config
from wukong_jax.data.blocks.batch import Batch
from wukong_jax.schema import Schema
from wukong_jax.training.run import Run, build_run


def build_step_config(case: StepCase, dtype: str, **changes: Any) -> dict[str, Any]:
    """Builds the config of a case as a mapping.

    Args:
      case: the model and its batch.
      dtype: dtype of the dense model's products.
      **changes: parts of the config that replace others.
    """
    tokens, hidden = case.tokens, case.hidden
    options = {
        "layers": case.layers,
        "fmb_tokens": tokens,
        "lcb_tokens": tokens,
        "rank": case.rank,
        "fmb_hidden": (hidden, hidden),
    }
    training = {"batch_size": case.batch, "evaluation_batch_size": case.batch, "compute_dtype": dtype, "steps": 1}
    return {
        "name": "bench_accelerator",
        "data": {"format": "blocks", "path": "none"},
        "model": {"options": options},
        "embeddings": {"width": case.width, "optimizer": {"kind": "rowwise_adagrad", "learning_rate": 0.01}},
        "training": training,
        "mesh": {"hosts": 1, "chips": 1},
    } | changes


def build_step_schema(case: StepCase) -> Schema:
    """Builds the schema of a case: tables of equal size."""
    return build_bench_schema(case.rows // COLUMNS)


def build_step_run(case: StepCase, dtype: str) -> Run:
    """Builds the run of a case on one device."""
    return build_run(build_run_config(build_step_config(case, dtype)), build_step_schema(case))


def draw_step_batch(run: Run) -> Batch:
    """Draws a batch of the run's size with random labels and Zipf-distributed ids."""
    return draw_batch(run, run.config.training.batch_size)

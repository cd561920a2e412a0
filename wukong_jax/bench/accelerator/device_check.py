"""Compares train steps on the device with the same steps on the CPU of the same process.

On the CPU, the reference runs the whole batch at once and merges equal rows by its own method, so that the two share
little but the mathematics. On a device that is a CPU, the step runs in microbatches where the batch allows it.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from wukong_jax.bench.accelerator.sizes import Cases, Row, Size
from wukong_jax.bench.zipf_ids import draw_zipf_ids
from wukong_jax.config import build_run_config
from wukong_jax.data.blocks.batch import Batch
from wukong_jax.runs.evaluation import put_batch
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source
from wukong_jax.training.run import Run, build_run
from wukong_jax.training.state import TrainState

COLUMNS, DENSE, TABLE_ROWS, BAG, DOMAINS, STEPS = 8, 5, 500, 6, 3, 3
# Limits of the differences: of the loss as its share, of weights and rows as a share of what training changed. Float32
# products keep full precision here, and sums in another order differ by some 1e-5. Factors of bfloat16 have 8 bits.
LIMITS = {
    "float32": {"loss_difference": 1e-3, "dense_difference": 1e-3, "rows_difference": 1e-3},
    "bfloat16": {"loss_difference": 1e-2, "dense_difference": 0.2, "rows_difference": 0.2},
}

DENSE_RATE = 0.2  # large, so that changes are far above the rounding of the weights
SGD = {"kind": "sgd", "learning_rate": 0.1}
# Accumulators and epsilons keep gradients of the size of rounding errors from becoming whole steps.
ADAGRAD = {"kind": "adagrad", "learning_rate": 0.05, "initial_accumulator": 0.1}
ROWWISE = {"kind": "rowwise_adagrad", "learning_rate": 0.05, "initial_accumulator": 0.1}
ADAM = {"kind": "lazy_adam", "learning_rate": 0.01, "epsilon": 1e-2}


@dataclasses.dataclass(frozen=True)
class CheckCase:
    """A model with a row optimizer."""

    factory: str
    optimizer: Mapping[str, Any]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    dtype: str = "float32"


WUKONG = {"layers": 1, "fmb_tokens": 4, "lcb_tokens": 4, "rank": 4, "fmb_hidden": (32,)}
CASES: Mapping[str, CheckCase] = {
    "wukong rowwise_adagrad": CheckCase("wukong_jax.models.wukong:build", ROWWISE, WUKONG),
    "dlrm sgd": CheckCase("wukong_jax.models.dlrm:build", SGD),
    "masknet lazy_adam": CheckCase("wukong_jax.models.masknet:build", ADAM),
    "dcnv2 adagrad": CheckCase("wukong_jax.models.dcnv2:build", ADAGRAD),
    "lattice rowwise_adagrad": CheckCase("lattice.network:build", ROWWISE),
    "dlrm bfloat16": CheckCase("wukong_jax.models.dlrm:build", SGD, dtype="bfloat16"),
}


def list_cases(size: Size) -> Cases:
    """Returns the stage's cases."""
    return {name: functools.partial(check_step, CASES[name], size.check_batch) for name in size.checks or CASES}


def build_check_run(case: CheckCase, batch: int, device: jax.Device, dtype: str, microbatch: int | None) -> Run:
    """Builds a run on one device: dense columns, columns of one id, and a bag that is summed."""
    columns = [CategoricalColumn(f"c{i}", "identity", rows=TABLE_ROWS) for i in range(COLUMNS)]
    columns.append(CategoricalColumn("bag", "identity", rows=TABLE_ROWS, separator=",", max_length=BAG))
    schema = Schema(
        "check",
        Source("parquet"),
        labels=(LabelColumn("click"), LabelColumn("purchase")),
        dense=tuple(DenseColumn(f"d{i}") for i in range(DENSE)),
        categorical=tuple(columns),
        domain="domain",
        domain_values=tuple(map(str, range(DOMAINS))),
    )
    config = {
        "name": "check",
        "data": {"format": "blocks", "path": "none"},
        "model": {"factory": case.factory, "options": case.options},
        "embeddings": {"width": 16, "optimizer": case.optimizer},
        "optimizer": {"factory": "sgd", "learning_rate": DENSE_RATE},
        "training": {"batch_size": batch, "steps": STEPS, "compute_dtype": dtype, "microbatch": microbatch},
        "mesh": {"hosts": 1, "chips": 1},
    }
    return build_run(build_run_config(config), schema, [device])


def draw_check_batch(run: Run, batch: int) -> Batch:
    """Draws a batch with frequent ids, missing ids, masked labels and padding rows."""
    random = np.random.default_rng(0)
    one_id = dataclasses.replace(run.layout, fields=run.layout.fields[:-1])
    ids = draw_zipf_ids(random, one_id, batch, 1.2)
    bag = slice(*run.layout.fields[-1].slots)
    ids[:, bag] = random.integers(-1, TABLE_ROWS // 10, (batch, BAG))
    ids[random.random(ids.shape) < 0.1] = -1
    weight = (random.random(batch) < 0.9).astype(np.float32)
    mask = (random.random((batch, 2)) < 0.8).astype(np.float32)
    return Batch(
        dense=random.normal(size=(batch, DENSE)).astype(np.float32),
        ids=ids,
        labels=random.integers(0, 2, (batch, 2)) * mask,
        label_mask=mask,
        domain=random.integers(0, DOMAINS, batch).astype(np.int32),
        group=np.zeros(batch, np.int32),
        timestamp=np.zeros(batch, np.int64),
        weight=weight,
        extras={},
    )


def check_step(case: CheckCase, batch: int) -> Row:
    """Takes steps on both and compares them.

    Raises:
      RuntimeError: they differ by more than the tolerance.
    """
    device, cpu = jax.devices()[0], jax.devices("cpu")[0]
    parts = batch // 4 if device.platform == "cpu" else None
    # bfloat16 is compared with the float32 step.
    reference = build_check_run(case, batch, cpu, "float32", 0)
    with jax.default_matmul_precision("highest"):
        own = take_steps(build_check_run(case, batch, device, case.dtype, parts), batch)
        expected = take_steps(reference, batch)
    row: Row = {"steps": STEPS, "loss": round(expected.losses[-1], 6), **compare(own, expected)}
    for key, limit in LIMITS[case.dtype].items():
        if not row[key] <= limit:  # also if it is NaN
            raise RuntimeError(f"{key} = {row[key]:.1e} between {device.platform} and cpu; the limit is {limit:g}")
    return row


@dataclasses.dataclass(frozen=True)
class Taken:
    """What some steps gave: losses before each step, and dense weights and rows before and after all."""

    losses: list[float]
    dense: tuple[list[np.ndarray], list[np.ndarray]]
    rows: tuple[list[np.ndarray], list[np.ndarray]]


def take_steps(run: Run, batch: int) -> Taken:
    """Takes the steps on one batch."""
    state, placed = run.init_state(), put_batch(draw_check_batch(run, batch), run.mesh)
    before = _to_host(state)
    step, losses = run.jit_train_step(), []
    for _ in range(STEPS):
        state, metrics = step(state, placed)
        losses.append(float(metrics["loss_sum"] / metrics["weight_sum"]))
    after = _to_host(state)
    return Taken(losses, (before[0], after[0]), (before[1], after[1]))


def compare(own: Taken, expected: Taken) -> dict[str, float]:
    """Returns the largest differences: of the loss as its share, of weights and rows as a share of their change."""
    losses = np.abs(np.subtract(own.losses, expected.losses)) / np.abs(expected.losses)
    dense, rows = _compare_arrays(own.dense, expected.dense), _compare_arrays(own.rows, expected.rows)
    found = {"loss_difference": losses.max(), "dense_difference": dense, "rows_difference": rows}
    return {key: float(f"{value:.2e}") for key, value in found.items()}


def _compare_arrays(own: tuple[list[np.ndarray], ...], expected: tuple[list[np.ndarray], ...]) -> float:
    """The largest relative difference of an array's changes, in the Euclidean norm.

    An array that changes by less than a hundredth of what any does, such as a bias before a norm, is compared with that
    hundredth, because its changes may be rounding errors.
    """
    changes = [after - before for before, after in zip(*expected, strict=True)]
    least = max(np.linalg.norm(change) for change in changes) / 100
    own_changes = (after - before for before, after in zip(*own, strict=True))
    return max(
        float(np.linalg.norm(own_change - change) / max(np.linalg.norm(change), least))
        for own_change, change in zip(own_changes, changes, strict=True)
    )


def _to_host(state: TrainState) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rows = [np.array(state.tables[name].rows, np.float64) for name in sorted(state.tables)]
    return [np.array(leaf, np.float64) for leaf in jax.tree.leaves(state.params)], rows

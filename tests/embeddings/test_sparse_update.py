"""Tests every row optimizer against a slow float64 twin that updates distinct rows one by one."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.option_checks import assert_no_option_is_idle
from wukong_jax.embeddings.bfloat16_rounding import bits_to_float32, draw_row_noise
from wukong_jax.embeddings.layout import TableStack
from wukong_jax.embeddings.row_gather import gather_rows
from wukong_jax.embeddings.row_optimizers import RowOptimizer, compute_row_change, declare_optimizer_arrays
from wukong_jax.embeddings.sparse_update import RowStep, update_at_once, update_in_blocks, update_stack
from wukong_jax.embeddings.tables import StackState, allocate_stack
from wukong_jax.strict_mapping import build_dataclass

V, WIDTH = 12, 4
OPTIMIZERS = {
    "sgd": RowOptimizer("sgd", 0.1),
    "sgd_l2": RowOptimizer("sgd", 0.1, l2=0.3),
    "adagrad": RowOptimizer("adagrad", 0.1, initial_accumulator=0.1),
    "adagrad_l2": RowOptimizer("adagrad", 0.1, l2=0.3),
    "rowwise_adagrad": RowOptimizer("rowwise_adagrad", 0.1, epsilon=1e-3),
    "rowwise_adagrad_l2": RowOptimizer("rowwise_adagrad", 0.1, l2=0.3),
    "lazy_adam": RowOptimizer("lazy_adam", 0.1),
    "lazy_adam_l2": RowOptimizer("lazy_adam", 0.1, l2=0.3, beta1=0.5, beta2=0.9),
    "lazy_adam_without_momentum": RowOptimizer("lazy_adam", 0.1, beta1=0.0),
}
BATCHES = [  # row ids of successive steps; V = no row
    [3, 3, 0, 11, 3, 0, V],
    [V, V, V, V, V, V, V],  # all padding
    [5, 5, 5, 5, 5, 5, 5],
    [V, 3, V, 3, 11, V, 1],
    [0, 1, 2, 3, 4, 5, 6],
]


def build_stack(optimizer: RowOptimizer, dtype: str = "float32", rows: int = V, width: int = WIDTH) -> TableStack:
    return TableStack("stack", width, dtype, optimizer, ("t",), (rows,), (0,), (0.02,), 1, 1)  # type: ignore[arg-type]


def build_state(stack: TableStack, merge: str) -> StackState:
    state = allocate_stack(stack, merge)  # type: ignore[arg-type]
    rows = np.random.default_rng(0).standard_normal(state.rows.shape).astype(np.float32)
    if stack.dtype == "bfloat16":
        return state._replace(rows=jnp.asarray(rows).astype(jnp.bfloat16).view(jnp.uint16))
    return state._replace(rows=jnp.asarray(rows))


def build_update(stack: TableStack, reuse_rows: bool = True) -> Callable[..., StackState]:
    def update(state: StackState, row_ids: Any, gradients: Any, step: Any, scale: Any, key: Any) -> StackState:
        rows = gather_rows(state.rows, row_ids) if reuse_rows else None
        return update_stack(stack, state, row_ids, gradients, rows, RowStep(step, scale, key))

    return jax.jit(update, donate_argnums=0)


def as_twin(state: StackState) -> dict[str, np.ndarray]:
    arrays = {name: np.array(array, np.float64) for name, array in state.optimizer.items()}
    rows = state.rows if state.rows.dtype == jnp.float32 else bits_to_float32(state.rows)
    arrays["rows"] = np.array(rows, np.float64)
    arrays["last_step"] = np.full(V, -1) if state.last_step is None else np.array(state.last_step)
    return arrays


def twin_step(
    opt: RowOptimizer, twin: dict[str, np.ndarray], row_ids: list[int], gradients: np.ndarray, step: int, scale: float
) -> None:
    rate = opt.learning_rate * scale
    for row in sorted(set(row_ids) - {V}):
        gradient = sum(gradients[slot].astype(np.float64) for slot in range(len(row_ids)) if row_ids[slot] == row)
        value = twin["rows"][row].copy()
        gradient = gradient + opt.l2 * value
        direction = gradient
        if opt.kind == "sgd":
            size = np.full(WIDTH, rate)
        elif opt.kind == "adagrad":
            twin["accumulator"][row] += gradient**2
            size = rate / (np.sqrt(twin["accumulator"][row]) + opt.epsilon)
        elif opt.kind == "rowwise_adagrad":
            twin["accumulator"][row] += sum(gradient**2) / WIDTH
            size = np.full(WIDTH, rate / (np.sqrt(twin["accumulator"][row]) + opt.epsilon))
        else:
            twin["touch_count"][row] += 1
            touches = twin["touch_count"][row]
            twin["first_moment"][row] = opt.beta1 * twin["first_moment"][row] + (1 - opt.beta1) * gradient
            twin["second_moment"][row] = opt.beta2 * twin["second_moment"][row] + (1 - opt.beta2) * gradient**2
            direction = twin["first_moment"][row] / (1 - opt.beta1**touches)
            size = rate / (np.sqrt(twin["second_moment"][row] / (1 - opt.beta2**touches)) + opt.epsilon)
        skipped = step - twin["last_step"][row] - 1
        twin["rows"][row] = value * np.exp(-size * opt.l2 * skipped) - size * direction
        twin["last_step"][row] = step


@pytest.mark.parametrize(
    ("name", "merge"),
    [(name, "scratch") for name in OPTIMIZERS] + [(name, "sort") for name in ("rowwise_adagrad_l2", "lazy_adam_l2")],
)
def test_update_equals_the_slow_twin_over_several_steps(name: str, merge: str) -> None:
    optimizer = OPTIMIZERS[name]
    stack = build_stack(optimizer)
    state, update = build_state(stack, merge), build_update(stack)
    twin = as_twin(state)
    rng = np.random.default_rng(1)
    for step, row_ids in enumerate(BATCHES):
        before = as_twin(state)
        gradients = rng.standard_normal((len(row_ids), WIDTH)).astype(np.float32)
        scale = 1 - 0.1 * step
        state = update(state, jnp.array(row_ids), jnp.asarray(gradients), step, scale, jax.random.key(step))
        twin_step(optimizer, twin, row_ids, gradients, step, scale)
        after = as_twin(state)
        if optimizer.l2 == 0:
            after.pop("last_step")
        for array, values in after.items():
            # Float32 against float64 through at most 5 steps of about 10 operations, each good to 6e-8.
            np.testing.assert_allclose(values, twin[array], rtol=1e-5, atol=1e-6, err_msg=f"{array}, step {step}")
            untouched = sorted(set(range(V)) - set(row_ids))
            np.testing.assert_array_equal(values[untouched], before[array][untouched])


@pytest.mark.parametrize("name", ["rowwise_adagrad", "lazy_adam_l2"])
def test_bfloat16_rows_are_the_twins_rounded_to_a_neighbour(name: str) -> None:
    optimizer = OPTIMIZERS[name]
    stack = build_stack(optimizer, "bfloat16")
    finals = []
    for merge in ("scratch", "sort"):
        state, update = build_state(stack, merge), build_update(stack)
        rng = np.random.default_rng(1)
        for step, row_ids in enumerate(BATCHES):
            twin = as_twin(state)  # from the rounded rows of the step before
            before = np.array(state.rows)
            gradients = rng.integers(-4, 5, (len(row_ids), WIDTH)).astype(np.float32)  # exact in any order
            state = update(state, jnp.array(row_ids), jnp.asarray(gradients), step, 1.0, jax.random.key(step))
            twin_step(optimizer, twin, row_ids, gradients, step, 1.0)
            error = np.abs(as_twin(state)["rows"] - twin["rows"])
            assert (error <= np.abs(twin["rows"]) * 2**-7 + 1e-7).all()  # neighbours lie at most 2**-7 apart
            untouched = sorted(set(range(V)) - set(row_ids))
            np.testing.assert_array_equal(np.array(state.rows)[untouched], before[untouched])
        finals.append(np.array(state.rows))
    np.testing.assert_array_equal(finals[0], finals[1])  # noise goes by row: the merge does not matter


def test_bfloat16_updates_too_small_for_rounding_survive_on_average() -> None:
    rows = 4096
    stack = build_stack(RowOptimizer("sgd", 1.0), "bfloat16", rows)
    state = allocate_stack(stack, "scratch")._replace(rows=jnp.ones((rows, WIDTH), jnp.bfloat16).view(jnp.uint16))
    update = build_update(stack)
    gradient = -(2.0**-12)  # 1 / 32 of the gap above 1
    for step in range(8):
        state = update(state, jnp.arange(rows), jnp.full((rows, WIDTH), gradient), step, 1.0, jax.random.key(step))
    moved = np.array(bits_to_float32(state.rows), np.float64).mean() - 1
    # 8 steps x 16384 draws of a gap of 2**-7 taken with probability 1/32: standard error 4e-6 of 2**-9.
    assert abs(moved - 8 * 2.0**-12) < 5 * 2.0**-7 * np.sqrt(8 / 32 / (rows * WIDTH))


@pytest.mark.parametrize("merge", ["scratch", "sort"])
def test_rows_of_the_forward_pass_and_rows_gathered_again_give_the_same(merge: str) -> None:
    stack = build_stack(OPTIMIZERS["adagrad_l2"])
    gradients = jnp.asarray(np.random.default_rng(0).standard_normal((7, WIDTH)), jnp.float32)
    arguments = (jnp.array(BATCHES[0]), gradients, 4, 1.0, jax.random.key(0))
    reused = build_update(stack)(build_state(stack, merge), *arguments)
    gathered = build_update(stack, reuse_rows=False)(build_state(stack, merge), *arguments)
    # The same numbers through differently fused code: a unit in the last place.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), reused, gathered)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["sgd", "rowwise_adagrad", "lazy_adam_l2"])
@pytest.mark.parametrize("batch", [0, 1, 4])
def test_updates_in_blocks_equal_those_at_once(name: str, dtype: str, batch: int) -> None:
    stack = build_stack(OPTIMIZERS[name], dtype)
    slots = jnp.array(BATCHES[batch]), jnp.asarray(np.random.default_rng(0).integers(-4, 5, (7, WIDTH)), jnp.float32)
    row_step = RowStep(jnp.int32(4), jnp.float32(1), jax.random.key(0))
    results = []
    for update in (update_at_once, functools.partial(update_in_blocks, block=2)):  # 7 slots: the last block is not full
        results.append(jax.jit(functools.partial(update, stack))(build_state(stack, "sort"), *slots, row_step))
    # The same numbers through differently fused code: a unit in the last place.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), *results)


@pytest.mark.parametrize("name", ["rowwise_adagrad", "rowwise_adagrad_l2", "adagrad_l2"])
def test_columns_of_rows_update_in_blocks_as_at_once(name: str) -> None:
    """The mean over a row is asked for once, before the loop, and adds up what the other ranks have of it."""
    stack = build_stack(OPTIMIZERS[name])
    gradients = jnp.asarray(np.random.default_rng(0).integers(-4, 5, (7, WIDTH)), jnp.float32)
    row_step = RowStep(jnp.int32(4), jnp.float32(1), jax.random.key(0))
    results = []
    for update in (update_at_once, functools.partial(update_in_blocks, block=2)):
        own = jax.jit(functools.partial(update, stack, row_mean=_mean_of_twice_as_many_columns))
        results.append(own(build_state(stack, "sort"), jnp.array(BATCHES[0]), gradients, row_step))
    # The same numbers through differently fused code: a unit in the last place.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), *results)


def _mean_of_twice_as_many_columns(values: jax.Array) -> jax.Array:
    return values.sum(axis=1) / (2 * WIDTH)  # the other columns' gradients are 0


def test_l2_equals_whole_table_l2_for_rows_touched_in_every_step() -> None:
    stack = build_stack(OPTIMIZERS["sgd_l2"])
    state, update = build_state(stack, "scratch"), build_update(stack)
    table = np.array(state.rows, np.float64)
    rng = np.random.default_rng(3)
    for step in range(6):
        gradients = rng.standard_normal((V, WIDTH)).astype(np.float32)
        state = update(state, jnp.arange(V), jnp.asarray(gradients), step, 1.0, jax.random.key(0))
        table -= 0.1 * (gradients + 0.3 * table)
    np.testing.assert_allclose(state.rows, table, rtol=1e-5, atol=1e-6)  # 6 float32 steps


@pytest.mark.parametrize("kind", ["sgd", "adagrad", "rowwise_adagrad"])
def test_l2_after_a_long_absence_never_flips_a_row(kind: str) -> None:
    stack = build_stack(RowOptimizer(kind, 0.5, l2=0.5, initial_accumulator=float(kind != "sgd")))  # type: ignore[arg-type]
    state = build_state(stack, "scratch")
    start = np.array(state.rows)
    update = build_update(stack)
    state = update(state, jnp.arange(V), jnp.zeros((V, WIDTH)), 30, 1.0, jax.random.key(0))
    shrunk = np.array(state.rows) / start
    if kind == "sgd":  # exp(-0.5 * 0.5 * 30) made up for, then this step's -0.5 * 0.5 of the gathered row
        np.testing.assert_allclose(shrunk, np.exp(-7.5) - 0.25, rtol=1e-5)
    assert (np.abs(shrunk) < 1).all()


def compute_step_memory(stack: TableStack, merge: str, slots: int = 16) -> tuple[int, int, int]:
    state = jax.eval_shape(lambda: allocate_stack(stack, merge))  # type: ignore[arg-type]
    arguments = (
        jax.ShapeDtypeStruct((slots,), jnp.int32),
        jax.ShapeDtypeStruct((slots, stack.width), jnp.float32),
        jax.ShapeDtypeStruct((), jnp.int32),
        jax.ShapeDtypeStruct((), jnp.float32),
        jax.eval_shape(lambda: jax.random.key(0)),
    )
    memory = build_update(stack).lower(state, *arguments).compile().memory_analysis()
    state_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    return memory.temp_size_in_bytes, memory.alias_size_in_bytes, state_bytes


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "merge"),
    [(name, "scratch") for name in ("sgd", "adagrad", "rowwise_adagrad", "lazy_adam", "lazy_adam_l2")]
    + [(name, "sort") for name in ("rowwise_adagrad", "lazy_adam_l2")],
)
def test_no_temporary_grows_with_the_table_and_all_is_updated_in_place(name: str, merge: str, dtype: str) -> None:
    rows = 1_000_000
    temporary, aliased, state_bytes = compute_step_memory(build_stack(OPTIMIZERS[name], dtype, rows), merge)
    assert aliased == state_bytes
    assert temporary < rows // 4  # even a column of one byte a row would show


def test_temporary_is_the_same_for_small_and_large_tables() -> None:
    stacks = [build_stack(OPTIMIZERS["lazy_adam_l2"], "bfloat16", rows) for rows in (1_000, 1_000_000)]
    temporaries = [compute_step_memory(stack, "scratch")[0] for stack in stacks]
    assert temporaries[0] == temporaries[1] > 0


def test_the_memory_test_can_fail() -> None:
    """A gradient of the table's shape, as autodiff through the gather makes it, is seen by the same analysis."""
    rows = 1_000_000

    def dense_update(table: jax.Array, row_ids: jax.Array) -> jax.Array:
        gradient = jax.grad(lambda t: jnp.sum(t[row_ids] ** 2))(table)
        return table - 0.1 * gradient / (jnp.sqrt(jnp.square(gradient).sum()) + 1)

    shapes = jax.ShapeDtypeStruct((rows, WIDTH), jnp.float32), jax.ShapeDtypeStruct((64,), jnp.int32)
    memory = jax.jit(dense_update, donate_argnums=0).lower(*shapes).compile().memory_analysis()
    assert memory.temp_size_in_bytes >= rows * WIDTH * 4


def test_noise_differs_between_steps() -> None:
    noise = [np.array(draw_row_noise(jax.random.fold_in(jax.random.key(0), s), jnp.arange(9), 4)) for s in (0, 1)]
    assert not np.array_equal(*noise)


def test_optimizer_settings_are_hashable() -> None:
    assert len({dataclasses.replace(OPTIMIZERS["sgd"]), OPTIMIZERS["sgd"]}) == 1


OPTIMIZER_CHANGES = [
    *(("kind", {"kind": kind}) for kind in ("sgd", "adagrad", "rowwise_adagrad", "lazy_adam")),
    *(("learning_rate", {"learning_rate": 0.2}), ("l2", {"l2": 0.1}), ("epsilon", {"epsilon": 1e-3})),
    *(("initial_accumulator", {"initial_accumulator": 0.1}), ("beta1", {"beta1": 0.5}), ("beta2", {"beta2": 0.9})),
]


def test_no_option_of_a_row_optimizer_is_idle():
    def trace(options):
        optimizer = build_dataclass(RowOptimizer, options, "optimizer")
        declared = declare_optimizer_arrays(optimizer, 2)
        arrays = {name: jnp.zeros((3, *array.trailing_shape), array.dtype) for name, array in declared.items()}

        def step(rows, arrays):
            return compute_row_change(optimizer, rows, rows, arrays, jnp.ones(3, jnp.int32), jnp.float32(1.0))

        return f"{declared} {jax.make_jaxpr(step)(jnp.ones((3, 2)), arrays)}"

    kinds = ("sgd", "adagrad", "rowwise_adagrad", "lazy_adam")
    bases = [{"kind": kind, "learning_rate": 0.1, "l2": l2} for kind in kinds for l2 in (0.0, 0.3)]
    assert_no_option_is_idle(trace, RowOptimizer, bases, OPTIMIZER_CHANGES)

"""Tests the sums of runs against a slow twin that adds in the same order, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wukong_jax.embeddings import sum_runs as sum_runs_module
from wukong_jax.embeddings.merge_rows import merge_by_scratch, merge_by_sort
from wukong_jax.embeddings.sum_runs import CHUNK, SortedSlots, sum_runs

WIDTH, SLOTS = 2, 700  # one size, so that all examples share one compiled program; three levels of chunks
NO_ROW = 1000


def add_in_chunks(values: list[np.ndarray]) -> np.ndarray:
    """Sums one run: each chunk from its last value back to its first, then the chunks' sums in the same way."""
    if len(values) > CHUNK:
        return add_in_chunks([add_in_chunks(values[i : i + CHUNK]) for i in range(0, len(values), CHUNK)])
    total = np.float32(0)
    for value in reversed(values):
        total = total + value
    return total


def spread_lengths(lengths: list[int], seed: int) -> np.ndarray:
    """Row ids [SLOTS] in random order, in which the rows 0, 1, ... occur as often as given and the rest has no row."""
    rows = np.repeat(np.arange(len(lengths)), lengths)[:SLOTS]
    row_ids = np.concatenate([rows, np.full(SLOTS - len(rows), NO_ROW)]).astype(np.int32)
    return np.random.default_rng(seed).permutation(row_ids)


merge = jax.jit(merge_by_sort, static_argnums=2)


def check_sums(row_ids: np.ndarray, seed: int) -> None:
    gradients = np.random.default_rng(seed).standard_normal((len(row_ids), WIDTH)).astype(np.float32)
    merged = merge(jnp.asarray(row_ids), jnp.asarray(gradients), NO_ROW)
    touched, sums = np.asarray(merged.row_ids), np.asarray(merged.gradients)
    kept = np.flatnonzero(touched < NO_ROW)
    assert touched[kept].tolist() == sorted(set(row_ids.tolist()) - {NO_ROW})
    for position in kept:
        own = gradients[row_ids == touched[position]]
        np.testing.assert_array_equal(sums[position], add_in_chunks(list(own)))
    assert not sums[touched >= NO_ROW].any()


POWERS = [CHUNK**power + more for power in (1, 2, 3) for more in (-1, 0, 1)]


@pytest.mark.parametrize(
    "lengths",
    [[SLOTS], [1] * SLOTS, [], [SLOTS - 1, 1], [1, SLOTS - 1], [2] * (SLOTS // 2), [CHUNK + 1] * 77, [CHUNK] * 87]
    + [[length] for length in POWERS]
    + [[length, 1, length] for length in POWERS[:6]],
    ids=lambda lengths: f"{len(lengths)}_runs_from_{lengths[0] if lengths else 0}",
)
def test_each_run_is_summed_in_the_twins_order(lengths):
    check_sums(spread_lengths(lengths, seed=1), seed=2)


@given(lengths=st.lists(st.sampled_from([1, 1, 2, 3, *POWERS[:6], 200]), max_size=40), seed=st.integers(0, 2**16))
@settings(max_examples=40, deadline=None)
def test_runs_of_any_lengths_are_summed_in_the_twins_order(lengths, seed):
    check_sums(spread_lengths(lengths, seed), seed)


def test_sums_equal_those_of_the_scratch_column_and_repeat_to_the_bit():
    rng = np.random.default_rng(4)
    row_ids = jnp.asarray(np.minimum(rng.zipf(1.2, SLOTS) - 1, NO_ROW).astype(np.int32))
    gradients = jnp.asarray(rng.standard_normal((SLOTS, WIDTH)).astype(np.float32))

    def to_table(merged):
        return np.asarray(jnp.zeros((NO_ROW, WIDTH)).at[merged.row_ids].set(merged.gradients, mode="drop"))

    first = to_table(merge(row_ids, gradients, NO_ROW))
    other = to_table(jax.jit(merge_by_scratch)(row_ids, gradients, jnp.zeros(NO_ROW, jnp.int32)))
    # Up to 300 float32 numbers of size 1 in another order: each sum is off by at most 300 * 6e-8 of about 30.
    np.testing.assert_allclose(first, other, rtol=0, atol=300 * 6e-8 * 30)
    for _ in range(5):
        np.testing.assert_array_equal(to_table(merge(row_ids, gradients, NO_ROW)), first)


def test_each_value_is_read_once_at_its_level(monkeypatch):
    reads = []

    def sum_backwards(values, sources, ends, counts):
        reads.append((len(values), int(counts.sum())))
        return real(values, sources, ends, counts)

    real = sum_runs_module._sum_backwards
    monkeypatch.setattr(sum_runs_module, "_sum_backwards", sum_backwards)
    lengths = [1, 3, CHUNK, CHUNK + 1, 3 * CHUNK, 90]
    before = np.concatenate([np.arange(length) for length in lengths])
    is_last = np.concatenate([np.arange(length) == length - 1 for length in lengths])
    slots = SortedSlots(*(jnp.asarray(array) for array in (np.arange(len(before)), before, is_last)))
    sum_runs(jnp.ones((len(before), 1)), slots, len(before))
    by_level = {level: sum(count for size, count in reads if size == level) for level, _ in reads}
    chunks = [-(-length // CHUNK) for length in lengths if length > CHUNK]
    assert list(by_level.values())[:2] == [len(before), sum(chunks)]
    assert len(by_level) == 3  # a run of 135 slots, the length allowed here, leaves 17 chunks, and these leave 3


def test_lowered_sums_have_no_loop_and_no_scatter_of_values():
    shapes = jax.ShapeDtypeStruct((SLOTS,), jnp.int32), jax.ShapeDtypeStruct((SLOTS, WIDTH), jnp.float32)
    text = str(jax.make_jaxpr(merge_by_sort, static_argnums=2)(*shapes, NO_ROW))
    assert "while" not in text
    assert "scatter-add" not in text
    assert all("f32" not in line for line in text.splitlines() if "scatter" in line)

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wukong_jax.embeddings.merge_rows import MergedRows, merge_by_addition, merge_by_scratch, merge_by_sort

ROWS, WIDTH = 13, 3
METHODS = ("scratch", "sort", "addition")

CASES = {
    "repeated": [3, 3, 0, 12, 3, 0, 5],
    "no_row_among": [13, 3, 13, 3, 1, 13],
    "all_padding": [13, 13, 13],
    "distinct": [4, 2, 0],
    "one_slot": [12],
    "all_equal": [7] * 9,
}


def merge(row_ids: np.ndarray, gradients: np.ndarray, method: str) -> MergedRows:
    slots = jnp.asarray(row_ids), jnp.asarray(gradients)
    if method == "sort":
        return jax.jit(merge_by_sort, static_argnums=2)(*slots, ROWS)
    if method == "addition":
        packed = jax.jit(merge_by_addition, static_argnums=(2, 3))(*slots, ROWS, 4)
        assert int(packed.distinct) == len(set(row_ids.tolist()) - {ROWS})
        assert (np.asarray(packed.row_ids)[: int(packed.distinct)] < ROWS).all()
        assert len(packed.row_ids) == len(packed.gradients) == -(-len(row_ids) // 4) * 4
        return MergedRows(packed.row_ids, packed.gradients, None)
    # A scratch column of any content: what an earlier step left must not matter.
    scratch = jnp.asarray(np.random.default_rng(1).integers(0, 9, ROWS), jnp.int32)
    return jax.jit(merge_by_scratch)(*slots, scratch)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", CASES)
def test_each_distinct_row_is_left_once_with_the_sum_of_its_gradients(case: str, method: str) -> None:
    row_ids = np.array(CASES[case], np.int32)
    gradients = np.random.default_rng(0).standard_normal((len(row_ids), WIDTH)).astype(np.float32)
    merged = merge(row_ids, gradients, method)
    kept = np.flatnonzero(np.asarray(merged.row_ids) < ROWS)
    assert sorted(np.asarray(merged.row_ids)[kept]) == sorted({i for i in CASES[case] if i < ROWS})
    for position in kept:
        row = int(merged.row_ids[position])
        # At most 9 float32 additions: an error of a few 1e-7 of the largest term.
        np.testing.assert_allclose(merged.gradients[position], gradients[row_ids == row].sum(0), rtol=0, atol=2e-6)


@pytest.mark.parametrize("method", METHODS)
def test_positions_without_a_row_have_different_ids(method: str) -> None:
    merged = merge(np.array(CASES["repeated"], np.int32), np.zeros((7, WIDTH), np.float32), method)
    assert len(np.unique(merged.row_ids)) == len(merged.row_ids) >= 7


def test_all_methods_agree_on_a_skewed_batch() -> None:
    rng = np.random.default_rng(2)
    row_ids = np.minimum(rng.zipf(1.2, 4096) - 1, ROWS).astype(np.int32)
    gradients = rng.integers(-8, 8, (4096, WIDTH)).astype(np.float32)  # exact in any order of addition
    tables = []
    for method in METHODS:
        merged = merge(row_ids, gradients, method)
        tables.append(np.asarray(jnp.zeros((ROWS, WIDTH)).at[merged.row_ids].set(merged.gradients, mode="drop")))
    np.testing.assert_array_equal(tables[0], tables[1])
    np.testing.assert_array_equal(tables[0], tables[2])
    assert np.abs(tables[0]).sum() > 0

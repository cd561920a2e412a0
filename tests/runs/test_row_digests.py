"""Tests the digests of stored rows: on devices as on the host, every flipped bit, and no copy of a table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from wukong_jax.runs import row_digests
from wukong_jax.runs.row_digests import CHUNK, digest_rows, digest_stacks
from wukong_jax.sharding.mesh import build_mesh


def make_rows(rows, dtype, columns=3):
    generator = np.random.default_rng(rows)
    shape = (rows, columns) if columns else (rows,)
    return generator.integers(0, 1 << 16, shape).astype(dtype)


def digest_slowly(rows):
    """Sums every number times 2 * its position in its chunk + 1, in Python's integers."""
    numbers = rows.reshape(len(rows), -1).view({2: np.uint16, 4: np.uint32}[rows.dtype.itemsize])
    sums = []
    for start in range(0, len(numbers), CHUNK):
        part = numbers[start : start + CHUNK]
        columns = range(part.shape[1])
        sums.append([sum(int(part[i, c]) * (2 * i + 1) for i in range(len(part))) % 2**32 for c in columns])
    return np.asarray(sums, np.uint32).reshape(-1, *rows.shape[1:])


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint16])
@pytest.mark.parametrize(
    ("rows", "columns"), [(1, 3), (CHUNK, 2), (2 * CHUNK + 5, 3), (CHUNK + 1, 0), (65 * CHUNK + 9, 1)]
)
def test_host_and_device_digest_as_the_slow_twin(dtype, rows, columns):
    made = make_rows(rows, dtype, columns)
    expected = digest_slowly(made)
    np.testing.assert_array_equal(digest_rows(made), expected)
    found = digest_stacks({"stack": {"rows": jnp.asarray(made)}})["stack"]["rows"]
    np.testing.assert_array_equal(found, expected)


def test_the_shards_of_a_stack_are_digested_apart():
    mesh = build_mesh(2, 2)
    rows = make_rows(4 * (CHUNK + 7), np.float32)
    placed = jax.device_put(rows, NamedSharding(mesh, PartitionSpec(("host", "chip"))))
    found = digest_stacks({"stack": {"rows": placed}})["stack"]["rows"]
    expected = np.concatenate([digest_slowly(part) for part in np.split(rows, 4)])
    np.testing.assert_array_equal(found, expected)
    assert row_digests.count_shards(placed) == 4
    copies = jax.device_put(rows, NamedSharding(mesh, PartitionSpec()))
    assert row_digests.count_shards(copies) == 1
    np.testing.assert_array_equal(digest_stacks({"s": {"rows": copies}})["s"]["rows"], digest_slowly(rows))


def test_every_flipped_bit_changes_the_digest_of_its_column():
    rows = make_rows(CHUNK + 50, np.float32, 2)
    before = digest_rows(rows)
    for row, bit in [(0, 0), (17, 31), (CHUNK - 1, 31), (CHUNK, 5), (CHUNK + 49, 30)]:
        flipped = rows.copy()
        flipped.view(np.uint32)[row, 1] ^= np.uint32(1 << bit)
        changed = np.argwhere(digest_rows(flipped) != before)
        np.testing.assert_array_equal(changed, [[row // CHUNK, 1]])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.uint16])
def test_no_copy_of_a_table_is_made(dtype):
    shape, bytes_each = (4000 * CHUNK + 3, 16), np.dtype(dtype).itemsize
    program = row_digests._compile_digest((jax.devices()[0],), shape, np.dtype(dtype))
    assert program.memory_analysis().temp_size_in_bytes < 0.05 * np.prod(shape) * bytes_each


def test_saving_finds_the_programs_compiled_ahead():
    mesh = build_mesh(2, 2)
    shape, sharding = (4 * (CHUNK + 11), 5), NamedSharding(mesh, PartitionSpec(("host", "chip")))
    described = jax.ShapeDtypeStruct(shape, np.float32, sharding=sharding)
    row_digests.compile_digests({"stack": {"rows": described}})
    before = row_digests._compile_digest.cache_info()
    digest_stacks({"stack": {"rows": jax.device_put(np.zeros(shape, np.float32), sharding)}})
    after = row_digests._compile_digest.cache_info()
    assert (after.hits, after.misses) == (before.hits + 1, before.misses)

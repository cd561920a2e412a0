"""Tests that tables which lie in files are placed as tables in memory are, block by block."""

import jax
import numpy as np
import pytest

from tests.embeddings.test_flat_exchange import MIXED, build_layout
from wukong_jax.embeddings import filled_shards, placement
from wukong_jax.embeddings.flat_exchange import FlatExchange
from wukong_jax.embeddings.placement import build_placement
from wukong_jax.sharding.mesh import build_mesh


class InFiles:
    """A table as a checkpoint gives it: not an array, but indexing reads it; counts the rows of the largest reading."""

    def __init__(self, array: np.ndarray) -> None:
        self._array, self.shape, self.dtype, self.ndim = array, array.shape, array.dtype, array.ndim
        self.largest = 0

    def __getitem__(self, key):
        assert not isinstance(key, tuple) or len(key) == 2
        read = np.array(self._array[key])
        self.largest = max(self.largest, len(read))
        return read

    def __array__(self, dtype=None, copy=None):
        return self._array


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tables_in_files_are_placed_as_tables_in_memory(dtype, monkeypatch):
    monkeypatch.setattr(filled_shards, "_BLOCK_BYTES", 3 * 8 * 4)  # three rows of float32
    mesh = build_mesh(2, 4)
    exchange = FlatExchange(
        build_layout(dtype=dtype, l2=0.1), mesh, build_placement(build_layout(dtype=dtype, l2=0.1), MIXED, 8)
    )
    logical = exchange.export_tables(exchange.init_tables(jax.random.key(3)))
    in_files = jax.tree.map(InFiles, logical)
    found = exchange.export_tables(exchange.import_tables(in_files))
    jax.tree.map(np.testing.assert_array_equal, found, logical)
    assert in_files["item"]["rows"].largest <= 6  # of bfloat16
    assert in_files["user"]["rows"].largest <= 12  # half the columns


def test_many_rows_are_rounded_up_by_little_to_a_number_of_many_divisors():
    for rows in (1, 999, 65_536):
        assert placement._round_up_rows(rows) == rows
    for rows in (65_537, 1_000_003, 4_194_301, 1_999_999_973):
        rounded = placement._round_up_rows(rows)
        assert rows <= rounded <= min(rows * (1 + 1 / 64), 2_000_000_000)
        part = rounded
        while part % 2 == 0:
            part //= 2
        assert part <= 128 or rounded == 2_000_000_000

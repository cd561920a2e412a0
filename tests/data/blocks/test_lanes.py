"""Tests that rows read by lanes have the documented order for any number of processes, and who reads which blocks."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from tests.data.blocks.test_loader import SCHEMA, NumberedRows, rows_of
from wukong_jax.config import DataConfig
from wukong_jax.data.blocks.batch import Batch, Columns
from wukong_jax.data.blocks.loader import Position, iterate_batches
from wukong_jax.errors import UserError

SIZES = [  # rows, rows_per_block, window_rows, batch_size, lanes
    (1003, 50, 175, 64, 4),
    (1003, 50, 400, 64, 4),
    (1000, 100, 1000, 100, 2),
    (1024, 64, 64, 64, 8),
    (7, 50, 175, 64, 4),
    (3, 2, 175, 64, 8),
    (997, 10, 100, 96, 12),
]


class CountedRows(NumberedRows):
    """Counts how often each block is read; blocks have a column more than the schema, as joined rows do."""

    def __init__(self, rows: int, rows_per_block: int) -> None:
        super().__init__(rows, rows_per_block)
        self.read_counts = np.zeros(self.num_blocks, int)

    def read(self, index: int) -> Columns:
        self.read_counts[index] += 1
        columns = super().read(index)
        return {**columns, "joined": columns["dense"] * 2}


def slow_order(
    rows: int, rows_per_block: int, window_rows: int, batch: int, lanes: int, epoch: int, seed: int = 7
) -> list[list[int]]:
    """Returns the batches of an epoch in the documented order, computed row by row."""

    def permute(items: list, *words: int) -> list:
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch, *words))))
        return [items[i] for i in generator.permutation(len(items))]

    places = permute(list(range(-(-rows // rows_per_block))), 0)
    laid = [(place, row) for place, block in enumerate(places) for row in range(rows) if row // rows_per_block == block]
    width = max(1, window_rows // (min(rows, rows_per_block) * lanes))
    streams, used = [], 0
    for lane in range(lanes):
        own = laid[used : used + rows // lanes + (lane < rows % lanes)]
        used += len(own)
        windows = itertools.groupby(own, key=lambda item, first=own[0][0] if own else 0: (item[0] - first) // width)
        shuffled: list[int] = []
        for window, members in windows:
            shuffled += permute([row for _, row in members], 1, window, *([lane] if lanes > 1 else []))
        streams.append(shuffled)
    of_lane = batch // lanes
    return [
        [row for stream in streams for row in stream[step * of_lane : (step + 1) * of_lane]]
        for step in range(-(-rows // batch))
    ]


def iterate(
    rows: int, rows_per_block: int, window_rows: int, batch: int, lanes: int, own: np.ndarray | None = None, **options
) -> Iterator[tuple[Batch, Position]]:
    source = options.pop("source", None) or CountedRows(rows, rows_per_block)
    settings = {"position": Position(0, 7, 0), "shuffle": True, "epochs": 2} | options
    return iterate_batches(source, SCHEMA, batch, window_rows=window_rows, lanes=lanes, own_rows=own, **settings)


def share(count: int, batch: int) -> list[np.ndarray]:
    return list(np.arange(batch).reshape(count, -1))


def read_together(*sizes: int, count: int, **options) -> list[list[int]]:
    """Reads with several processes, and returns the rows of each global batch."""
    streams = [iterate(*sizes, own=own, **options) for own in share(count, sizes[3])]
    batches = []
    for pieces in zip(*streams, strict=True):
        assert len({position for _, position in pieces}) == 1
        assert {len(batch.weight) for batch, _ in pieces} == {sizes[3] // count}
        batches.append([row for batch, _ in pieces for row in rows_of(batch)])
    return batches


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("sizes", SIZES)
def test_the_order_by_lanes_is_the_documented_one_for_any_process_count(sizes: tuple[int, ...], count: int) -> None:
    found = read_together(*sizes, count=count)
    assert found == slow_order(*sizes, epoch=0) + slow_order(*sizes, epoch=1)
    for epoch in (found[: len(found) // 2], found[len(found) // 2 :]):
        assert sorted(itertools.chain(*epoch)) == list(range(sizes[0]))
        assert [len(rows) for rows in epoch[:-1]] == [sizes[3]] * (len(epoch) - 1)


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_reading_goes_on_at_any_position_with_any_process_count(count: int, lanes: int) -> None:
    sizes = (1003, 50, 175, 64, lanes)
    whole = read_together(*sizes, count=1)
    positions = [position for _, position in iterate(*sizes)]
    for step, position in enumerate(positions[:-1], 1):
        assert read_together(*sizes, count=count, position=position) == whole[step:]


def test_rows_of_devices_that_lie_scattered_in_the_mesh_are_those_of_the_batch() -> None:
    sizes = (1003, 50, 175, 64, 4)
    whole = list(iterate(*sizes))
    for own in (np.r_[0:8, 40:48], np.r_[8:40, 48:64]):
        for (batch, position), (mine, here) in zip(whole, iterate(*sizes, own=own), strict=True):
            assert here == position
            for name, array in batch._asdict().items():
                if name not in ("extras", "bag_share"):
                    np.testing.assert_array_equal(getattr(mine, name), array[own], err_msg=name)
            np.testing.assert_array_equal(mine.extras["joined"], batch.extras["joined"][own])


def count_reads(*sizes: int, count: int, **options) -> np.ndarray:
    """Returns how many blocks each of several processes reads in an epoch."""
    reads = []
    for own in share(count, sizes[3]):
        source = CountedRows(*sizes[:2])
        for _ in iterate(*sizes, own=own, source=source, epochs=1, **options):
            pass
        reads.append(source.read_counts.sum())
    return np.array(reads)


@pytest.mark.parametrize("count", [2, 4, 16, 64])
@pytest.mark.parametrize("lanes", [64, 128])
def test_processes_together_read_every_block_once_and_one_more_for_each_lane(lanes: int, count: int) -> None:
    sizes = (196 * 20 - 7, 20, 320, 256, lanes)
    reads = count_reads(*sizes, count=count)
    assert 196 <= reads.sum() <= 196 + lanes
    assert reads.max() <= -(-196 // count) + lanes // count + 1


def test_with_one_lane_every_process_reads_every_block() -> None:
    assert count_reads(20 * 50, 50, 500, 64, 1, count=4).tolist() == [20] * 4


@pytest.mark.parametrize("lanes", [1, 4])
def test_a_process_reads_only_blocks_with_rows_of_its_own_when_rows_keep_their_order(lanes: int) -> None:
    """Batches of 256 rows have 64 rows of each process, 4 blocks of 16."""
    sizes = (4096, 16, 160, 256, lanes)
    assert count_reads(*sizes, count=4, shuffle=False).tolist() == [64] * 4


def test_lanes_without_shuffling_are_ranges_of_the_rows_in_order() -> None:
    sizes = (1003, 50, 175, 64, 4)
    own = [
        [row for batch, _ in iterate(*sizes, own=own, shuffle=False, epochs=1) for row in rows_of(batch)]
        for own in share(4, 64)
    ]
    assert own == [list(range(251 * i, min(251 * (i + 1), 1003))) for i in range(4)]


def test_a_batch_takes_rows_of_every_lane_and_of_every_block_of_a_window() -> None:
    """64 lanes of windows of one block: a batch of 256 has 4 rows of each lane; a window of all rows mixes as many."""
    batch, _ = next(iterate(64 * 100, 100, 6400, 256, 64))
    assert np.bincount(batch.group // 100, minlength=64).tolist() == [4] * 64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lanes": 3}, "config.data.lanes = 3: does not divide the batch size, 64"),
        ({"lanes": 0}, "config.data.lanes = 0"),
        ({"lanes": 4, "position": Position(0, 7, 65)}, "rows_consumed = 65: not a multiple of 4 lanes"),
    ],
)
def test_lanes_that_do_not_fit_are_refused(options: dict, message: str) -> None:
    lanes = options.pop("lanes")
    with pytest.raises(UserError, match=message):
        iterate(1003, 50, 175, 64, lanes, **options)


def test_lanes_of_rows_in_stored_order_are_refused() -> None:
    with pytest.raises(UserError, match="lanes = 4: has no effect with shuffle = False"):
        DataConfig("blocks", path="rows", shuffle=False, lanes=4)

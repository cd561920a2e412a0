import gc
import itertools
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from wukong_jax.data.blocks.batch import COLUMN_DTYPES, Batch, Columns
from wukong_jax.data.blocks.loader import Position, batch_rows, iterate_batches
from wukong_jax.errors import UserError
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source

SCHEMA = Schema(
    name="small",
    source=Source("csv"),
    labels=(LabelColumn("click"),),
    dense=(DenseColumn("age"),),
    categorical=(CategoricalColumn("site", "identity", rows=100000),),
)


class NumberedRows:
    """A source in which every column contains the row's number."""

    def __init__(self, rows: int, rows_per_block: int) -> None:
        self.rows, self._rows_per_block = rows, rows_per_block
        self.num_blocks = -(-rows // rows_per_block)

    def block_rows(self, index: int) -> int:
        return min(self._rows_per_block, self.rows - index * self._rows_per_block)

    def read(self, index: int) -> Columns:
        first = index * self._rows_per_block
        return numbered(np.arange(first, first + self.block_rows(index)))


def numbered(number: np.ndarray) -> Columns:
    shapes = SCHEMA.column_shapes()
    columns = {
        name: np.broadcast_to(number.reshape(-1, *[1] * len(s)), (len(number), *s)) for name, s in shapes.items()
    }
    columns = {name: array.astype(COLUMN_DTYPES[name]) for name, array in columns.items()}
    columns["weight"] = np.ones(len(number), np.float32)
    return columns


def slow_order(rows: int, rows_per_block: int, window_rows: int, seed: int, epoch: int) -> list[int]:
    """Returns the documented global order, computed row by row."""

    def generator(*words: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))

    blocks = [list(range(a, min(a + rows_per_block, rows))) for a in range(0, rows, rows_per_block)]
    width = max(1, window_rows // len(blocks[0]))
    blocks = [blocks[i] for i in generator(seed, epoch, 0).permutation(len(blocks))]
    order = []
    for window, start in enumerate(range(0, len(blocks), width)):
        members = list(itertools.chain(*blocks[start : start + width]))
        order += [members[i] for i in generator(seed, epoch, 1, window).permutation(len(members))]
    return order


def iterate(rows: int = 1003, rows_per_block: int = 50, **options) -> Iterator[tuple[Batch, Position]]:
    settings = {"position": Position(0, 7, 0), "shuffle": True, "epochs": 2, "window_rows": 175} | options
    batch_size = settings.pop("batch_size", 64)
    return iterate_batches(NumberedRows(rows, rows_per_block), SCHEMA, batch_size, **settings)


def share(index: int, count: int, batch_size: int = 64) -> dict[str, np.ndarray]:
    """Returns the option by which one of `count` processes reads its slice of every batch."""
    rows = batch_size // count
    return {"own_rows": np.arange(index * rows, (index + 1) * rows)}


def rows_of(batch: Batch) -> list[int]:
    return batch.group[batch.weight > 0].tolist()


@pytest.mark.parametrize(
    ("rows", "rows_per_block", "window_rows", "batch_size"),
    [(1003, 50, 175, 64), (1000, 100, 1000, 100), (7, 50, 175, 64), (200, 50, 1, 16), (513, 512, 100000, 513)],
)
@pytest.mark.parametrize("process_count", [1, 2, 4])
def test_the_global_order_is_the_documented_one_for_any_process_count(
    rows: int, rows_per_block: int, window_rows: int, batch_size: int, process_count: int
) -> None:
    batch_size -= batch_size % process_count
    streams = [
        iterate(
            rows,
            rows_per_block,
            window_rows=window_rows,
            batch_size=batch_size,
            **share(i, process_count, batch_size),
        )
        for i in range(process_count)
    ]
    found: list[int] = []
    batches = 0
    for pieces in zip(*streams, strict=True):
        assert len({position for _, position in pieces}) == 1
        assert all(len(batch.weight) == batch_size // process_count for batch, _ in pieces)
        found += itertools.chain(*(rows_of(batch) for batch, _ in pieces))
        batches += 1
    expected = [slow_order(rows, rows_per_block, window_rows, 7, epoch) for epoch in (0, 1)]
    assert found == expected[0] + expected[1]
    assert sorted(found[:rows]) == list(range(rows))
    assert batches == 2 * -(-rows // batch_size)


def test_the_rows_of_scattered_devices_are_those_of_the_whole_batch() -> None:
    """Processes whose devices are not neighbours in the mesh read rows that are not neighbours in the batch."""
    parts = np.arange(64).reshape(4, 16)
    own = [np.sort(parts[[3, 0]].reshape(-1)), parts[[1, 2]].reshape(-1)]
    whole = list(iterate(rows=200))
    for rows in own:
        for (batch, position), (mine, here) in zip(whole, iterate(rows=200, own_rows=rows), strict=True):
            assert here == position
            for name, array in batch._asdict().items():
                if name not in ("extras", "bag_share"):
                    np.testing.assert_array_equal(getattr(mine, name), array[rows], err_msg=name)


@pytest.mark.parametrize("rows", [5, 70, 1003])
def test_a_batch_without_own_rows_has_the_extras_of_every_other(rows: int) -> None:
    """Processes whose batches had another structure would wait for each other forever."""

    class WithExtra(NumberedRows):
        def read(self, index: int) -> Columns:
            columns = super().read(index)
            return {**columns, "looked_up": np.ones((len(columns["weight"]), 3), np.float32)}

    options = {"position": Position(0, 7, 0), "shuffle": True, "epochs": 2, "window_rows": 175}
    batches = iterate_batches(WithExtra(rows, 50), SCHEMA, 64, own_rows=np.arange(48, 64), **options)
    made = [batch.extras["looked_up"].shape for batch, _ in batches]
    assert made == [(16, 3)] * (2 * -(-rows // 64))


def test_every_column_of_a_row_travels_together() -> None:
    for batch, _ in iterate():
        kept = batch.weight > 0
        for name, array in batch._asdict().items():
            if name not in ("weight", "extras", "bag_share"):
                assert array.dtype == COLUMN_DTYPES[name]
                np.testing.assert_array_equal(array[kept].reshape(-1), batch.group[kept])


def test_the_last_batch_is_padded_with_weight_zero() -> None:
    batches = [batch for batch, _ in iterate(epochs=1)]
    last = batches[-1]
    assert len(batches) == 16
    assert (batches[-2].weight == 1).all()
    assert last.weight.tolist() == [1] * (1003 - 15 * 64) + [0] * (16 * 64 - 1003)
    padding = last.weight == 0
    assert (last.ids[padding] == -1).all()
    for name in ("dense", "labels", "label_mask", "domain", "group", "timestamp"):
        assert (getattr(last, name)[padding] == 0).all()


def test_epochs_and_seeds_have_different_orders() -> None:
    first = [row for batch, _ in iterate() for row in rows_of(batch)]
    other = [row for batch, _ in iterate(position=Position(0, 8, 0)) for row in rows_of(batch)]
    assert first[:1003] != first[1003:]
    assert first != other


def test_shuffling_mixes_the_blocks_of_a_window() -> None:
    """Four blocks of 250 in one window: a batch of 100 has about 25 rows of each (hypergeometric deviation 4)."""
    batch, _ = next(iterate(1000, 250, window_rows=1000, batch_size=100))
    counts = np.bincount(batch.group // 250, minlength=4)
    assert (np.abs(counts - 25) < 5 * 4.1).all()
    assert np.abs(np.corrcoef(batch.group, np.arange(100))[0, 1]) < 0.4  # deviation 0.1 for a random order


def test_without_shuffling_rows_keep_their_order() -> None:
    rows = [row for batch, _ in iterate(shuffle=False, epochs=1) for row in rows_of(batch)]
    assert rows == list(range(1003))
    halves = zip(
        iterate(shuffle=False, epochs=1, **share(0, 2)),
        iterate(shuffle=False, epochs=1, **share(1, 2)),
        strict=True,
    )
    assert [row for pair in halves for batch, _ in pair for row in rows_of(batch)] == list(range(1003))


@pytest.mark.parametrize("process_count", [1, 2])
def test_resuming_anywhere_continues_exactly(process_count: int) -> None:
    """From every position of two epochs, with one process or two, the rest is what the whole run saw."""
    whole = list(iterate())
    order = [row for batch, _ in whole for row in rows_of(batch)]
    seen = 0
    for batch, position in whole[:-1]:
        seen += len(rows_of(batch))
        streams = [iterate(position=position, **share(i, process_count)) for i in range(process_count)]
        first = [pieces for pieces in itertools.islice(zip(*streams, strict=True), 3)]
        rows = [row for pieces in first for batch, _ in pieces for row in rows_of(batch)]
        assert rows == order[seen : seen + len(rows)]
        assert len(rows) > 0


def test_resuming_with_another_batch_size_skips_and_repeats_nothing() -> None:
    order = [row for batch, _ in iterate() for row in rows_of(batch)]
    _, position = list(itertools.islice(iterate(), 5))[-1]
    for process_count in (1, 2):
        streams = [
            iterate(position=position, batch_size=90, **share(i, process_count, 90)) for i in range(process_count)
        ]
        rest = [row for pieces in zip(*streams, strict=True) for batch, _ in pieces for row in rows_of(batch)]
        assert rest == order[5 * 64 :]


def test_a_finished_run_resumes_to_nothing() -> None:
    positions = [position for _, position in iterate()]
    assert positions[-1] == Position(2, 7, 0)
    assert list(iterate(position=positions[-1])) == []


def test_no_end_without_epochs() -> None:
    positions = [position for _, position in itertools.islice(iterate(epochs=None), 40)]
    assert positions[-1].epoch == 2


@pytest.mark.parametrize("threads", [0, 1, 5])
def test_the_number_of_threads_changes_nothing(threads: int) -> None:
    for (batch, position), (other, other_position) in zip(iterate(threads=2), iterate(threads=threads), strict=True):
        assert position == other_position
        for name in SCHEMA.column_shapes():
            np.testing.assert_array_equal(getattr(batch, name), getattr(other, name))


def reading_threads() -> int:
    return sum(thread.name.startswith("grain-prefetch") for thread in threading.enumerate())


def wait_for_no_reading_threads(seconds: float = 20) -> bool:
    gc.collect()
    deadline = time.monotonic() + seconds
    while reading_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    return reading_threads() == 0


def test_closing_early_ends_the_threads() -> None:
    assert wait_for_no_reading_threads()  # of the tests before
    batches = iterate(epochs=None, threads=3)
    next(batches)
    assert reading_threads() > 0
    batches.close()
    assert wait_for_no_reading_threads()


class BrokenRows(NumberedRows):
    """A source whose third block cannot be read."""

    def read(self, index: int) -> Columns:
        if index == 2:
            raise UserError("train-00000.array_record, block 2: damaged")
        return super().read(index)


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_while_reading_reaches_the_caller(threads: int) -> None:
    batches = iterate_batches(
        BrokenRows(1000, 50),
        SCHEMA,
        50,
        position=Position(0, 0, 0),
        shuffle=False,
        epochs=1,
        window_rows=50,
        threads=threads,
    )
    assert [rows_of(batch)[0] for batch, _ in itertools.islice(batches, 2)] == [0, 50]
    with pytest.raises(UserError, match="block 2: damaged"):
        next(batches)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size = 0"),
        ({"own_rows": np.arange(60, 65)}, r"own_rows of 5 rows: give ascending positions in \[0, 64\)"),
        ({"own_rows": np.array([3, 2])}, "own_rows of 2 rows"),
        ({"own_rows": np.arange(0)}, "own_rows of 0 rows"),
        ({"position": Position(0, 0, 1003)}, "rows_consumed = 1003: the split has 1003 rows"),
        ({"rows": 0}, "the split is empty"),
    ],
)
def test_impossible_requests_are_refused_at_once(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        iterate(**options)


def test_position_survives_a_checkpoint() -> None:
    position = Position(3, 5, 640)
    assert Position.from_dict(position.to_dict()) == position
    with pytest.raises(UserError, match="rows"):
        Position.from_dict({"epoch": 0, "seed": 1, "rows": 2})


def test_streams_of_chunks_are_cut_into_batches() -> None:
    chunks = [numbered(np.arange(a, b)) for a, b in ((0, 3), (3, 3), (3, 20), (20, 21))]
    batches = list(batch_rows(iter(chunks), SCHEMA, 5))
    assert [len(batch.weight) for batch in batches] == [5] * 5
    assert [row for batch in batches for row in rows_of(batch)] == list(range(21))
    assert list(batch_rows([], SCHEMA, 5)) == []

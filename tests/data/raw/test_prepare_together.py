"""Tests that several processes prepare what one does: the same schema, vocabularies, blocks and report."""

import dataclasses
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.data.raw.test_prepare_pipeline import HASHED, SPLITS, VOCABULARIES, read_output, write_files
from wukong_jax.data.blocks.row_blocks import open_row_blocks
from wukong_jax.data.raw.prepare import prepare_data
from wukong_jax.data.raw.prepare_together import deal_files, prepare_together
from wukong_jax.errors import UserError
from wukong_jax.schema import LabelColumn

OPTIONS = {"on_bad_row": "skip", "chunk_bytes": 3000, "rows_per_block": 64}


class Meeting:
    """What the threads of a test share instead of a key-value store; values pass through JSON as they would there."""

    def __init__(self, count):
        self.count, self.barrier, self.values = count, threading.Barrier(count, timeout=60.0), {}


class ThreadTeam:
    """A thread in the place of a process."""

    def __init__(self, meeting, index):
        self.index, self.count, self.is_lead, self._meeting = index, meeting.count, index == 0, meeting

    def gather(self, name, value):
        self._meeting.values[self.index] = json.dumps(value)
        self._meeting.barrier.wait()
        found = [json.loads(self._meeting.values[index]) for index in range(self.count)]
        self._meeting.barrier.wait()
        return found

    def tell(self, name, value):
        return self.gather(name, value)[0]

    def wait(self, name):
        self.gather(name, None)

    def check_equal(self, name, value, fix):
        assert len(set(self.gather(name, value))) == 1

    def mark(self, stage, busy=False):
        """Nobody watches."""


def prepare_in_threads(count, schema, inputs, output, **options):
    meeting = Meeting(count)

    def act(index):
        try:
            return prepare_together(schema, inputs, output, team=ThreadTeam(meeting, index), **options)
        except BaseException:
            meeting.barrier.abort()  # as `Team.fail` ends the others
            raise

    with ThreadPoolExecutor(count) as threads:
        started = [threads.submit(act, index) for index in range(count)]
    errors = [done.exception() for done in started if done.exception() is not None]
    own = [error for error in errors if not isinstance(error, threading.BrokenBarrierError)]
    if own:
        raise own[0]
    return started[0].result()


def assert_same_data(one, several):
    (files, report), (others, other_report) = read_output(one), read_output(several)
    assert other_report.pop("processes") > 1
    assert other_report == report
    indices = {name for name in files if name.startswith("blocks/") and name.endswith(".json")}
    assert len(indices) == 3
    for name in files:
        if name in indices:
            index, other = json.loads(files[name]), json.loads(others[name])
            split = name.removeprefix("blocks/").removesuffix(".json")
            assert other["files"] == [f"{split}-{i:05d}.array_record" for i in range(len(other["files"]))]
            for key in ("files", "blocks_per_file"):
                del index[key], other[key]
            assert other == index  # with the checksum of every block
        elif not name.startswith("blocks/"):
            assert others[name] == files[name], name
    assert {name for name in others if not name.startswith("blocks/")} == {
        name for name in files if not name.startswith("blocks/")
    }
    for split in ("train", "validation", "test"):
        blocks, other_blocks = open_row_blocks(one, split), open_row_blocks(several, split)
        for place in range(blocks.num_blocks):
            for name, array in other_blocks.read(place).items():
                np.testing.assert_array_equal(array, blocks.read(place)[name])


@pytest.mark.parametrize("split", SPLITS, ids=lambda split: split.by)
@pytest.mark.parametrize(
    ("schema", "counts"),
    [(VOCABULARIES, (2, 5)), (HASHED, (3,))],  # of three files, so that some processes get none
    ids=["vocabularies", "hashed"],
)
def test_several_processes_prepare_what_one_does(tmp_path, schema, counts, split):
    schema = dataclasses.replace(schema, split=split)
    files = write_files(tmp_path / "raw", 700, bad_every=25)
    prepare_data(schema, [files], tmp_path / "one", **OPTIONS)
    for count in counts:
        prepare_in_threads(count, schema, [files], tmp_path / f"by_{count}", **OPTIONS)
        assert_same_data(tmp_path / "one", tmp_path / f"by_{count}")
    assert not list(tmp_path.glob("*.writing"))


def test_blocks_that_span_many_processes_are_whole(tmp_path):
    schema = dataclasses.replace(VOCABULARIES, split=SPLITS[0])
    lines = (write_files(tmp_path / "raw", 300) / "a.tsv").read_text(encoding="utf-8").splitlines()
    for number in range(30):  # ten rows a file, so that no process fills a block of its own
        (tmp_path / "raw" / f"part-{number}.tsv").write_text("\n".join(lines[number * 10 : number * 10 + 10]) + "\n")
    for path in (tmp_path / "raw").glob("[abc].tsv"):
        path.unlink()
    options = OPTIONS | {"rows_per_block": 128}
    prepare_data(schema, [tmp_path / "raw"], tmp_path / "one", **options)
    prepare_in_threads(6, schema, [tmp_path / "raw"], tmp_path / "several", **options)
    assert_same_data(tmp_path / "one", tmp_path / "several")


def test_a_mistake_that_one_process_finds_leaves_nothing(tmp_path):
    schema = dataclasses.replace(VOCABULARIES, split=SPLITS[0])
    files = write_files(tmp_path / "raw", 700, bad_every=25)
    with pytest.raises(UserError, match=r"\.tsv, line \d+, .*; fix the row"):
        prepare_in_threads(3, schema, [files], tmp_path / "out", **OPTIONS | {"on_bad_row": "stop"})
    for path in files.glob("*.tsv"):
        path.write_text("")
    with pytest.raises(UserError, match="no rows in any of the 3 files"):
        prepare_in_threads(3, schema, [files], tmp_path / "out", **OPTIONS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]


def test_a_positive_text_counts_as_seen_if_any_process_saw_it(tmp_path):
    label = LabelColumn("click", positive=("1", "yes"))
    schema = dataclasses.replace(VOCABULARIES, split=SPLITS[0], labels=(label,))
    files = write_files(tmp_path / "raw", 200)
    prepare_data(schema, [files], tmp_path / "one", **OPTIONS)
    prepare_in_threads(2, schema, [files], tmp_path / "two", **OPTIONS)
    assert_same_data(tmp_path / "one", tmp_path / "two")


def test_files_are_dealt_out_in_order_by_bytes(tmp_path):
    files = []
    for number, size in enumerate([10, 10, 10, 1000, 10, 10, 500, 500]):
        path = tmp_path / str(number)
        path.write_bytes(b"x" * size)
        files.append((path, 0))
    dealt = deal_files(files, 2)
    assert [file for part in dealt for file in part] == files
    assert [len(part) for part in dealt] == [4, 4]
    assert sum(map(len, deal_files(files[:2], 5))) == 2

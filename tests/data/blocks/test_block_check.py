"""Tests that a split whose files or index changed is read again, and that other blocks under its index are found."""

import os
import shutil

import numpy as np
import pytest

from tests.data.blocks.test_row_blocks import SCHEMA, draw_columns
from wukong_jax.data.blocks.block_check import compute_digests, find_digests, write_note
from wukong_jax.data.blocks.row_blocks import BlockWriter, open_row_blocks
from wukong_jax.errors import UserError
from wukong_jax.schema import schema_to_json


def write(folder, columns, rows_per_block=16):
    folder.mkdir(exist_ok=True)
    (folder / "schema.json").write_text(schema_to_json(SCHEMA))
    with BlockWriter(folder, "train", SCHEMA, rows_per_block, rows_per_file=64) as writer:
        writer.append(columns)
    return open_row_blocks(folder, "train")


def change_last_label(columns):
    labels = columns["labels"].copy()
    labels[-1] = 1 - labels[-1]
    return {**columns, "labels": labels}


def test_the_writer_notes_what_reading_computes(tmp_path):
    blocks = write(tmp_path / "a", draw_columns(150))
    assert find_digests(blocks) == blocks.digests == compute_digests(blocks)
    assert len(blocks.digests) == blocks.num_blocks == 10


def test_a_moved_folder_is_not_read_again_and_a_copied_one_is(tmp_path):
    digests = write(tmp_path / "a", draw_columns(40)).digests
    (tmp_path / "a").rename(tmp_path / "b")
    assert find_digests(open_row_blocks(tmp_path / "b", "train")) == digests
    shutil.copytree(tmp_path / "b", tmp_path / "c", copy_function=shutil.copyfile)
    copied = open_row_blocks(tmp_path / "c", "train")
    assert find_digests(copied) is None
    assert compute_digests(copied) == digests
    write_note(copied.index_path, copied.state)
    assert find_digests(copied) == digests


@pytest.mark.parametrize("keeps_time", [False, True])
def test_a_file_of_other_rows_under_an_old_index_is_found(tmp_path, keeps_time):
    """The files have the same size, as ArrayRecord pads them."""
    columns = draw_columns(150)
    write(tmp_path / "a", columns)
    write(tmp_path / "b", change_last_label(columns))
    name = "train-00002.array_record"
    ours, other = tmp_path / "a" / "blocks" / name, tmp_path / "b" / "blocks" / name
    assert ours.stat().st_size == other.stat().st_size
    (shutil.copy2 if keeps_time else shutil.copyfile)(other, ours)
    changed = open_row_blocks(tmp_path / "a", "train")
    assert find_digests(changed) is None
    with pytest.raises(UserError, match=r"train\.json: block 9 holds other rows than its index says"):
        compute_digests(changed)


def test_an_index_of_other_rows_over_old_files_is_found(tmp_path):
    columns = draw_columns(150)
    write(tmp_path / "a", columns)
    write(tmp_path / "b", change_last_label(columns))
    shutil.copy2(tmp_path / "b" / "blocks" / "train.json", tmp_path / "a" / "blocks" / "train.json")
    changed = open_row_blocks(tmp_path / "a", "train")
    assert find_digests(changed) is None
    with pytest.raises(UserError, match="block 9 holds other rows"):
        compute_digests(changed)


def test_blocks_of_an_earlier_version_are_read_once_and_noted(tmp_path):
    digests = write(tmp_path / "a", draw_columns(40)).digests
    index = tmp_path / "a" / "blocks" / "train.json"
    index.with_name("train.checked.json").unlink()
    text = index.read_text()
    start, stop = text.index(',\n "digests"'), text.index("]", text.index('"digests"')) + 1
    index.write_text(text[:start] + text[stop:])
    old = open_row_blocks(tmp_path / "a", "train")
    assert old.digests == ()
    assert find_digests(old) is None
    assert compute_digests(old) == digests
    write_note(old.index_path, old.state, digests)
    assert find_digests(open_row_blocks(tmp_path / "a", "train")) == digests


@pytest.mark.parametrize("note", ["", "[1]", "{", '{"state": 3}'])
def test_a_broken_note_is_no_note(tmp_path, note):
    blocks = write(tmp_path / "a", draw_columns(40))
    blocks.index_path.with_name("train.checked.json").write_text(note)
    assert find_digests(blocks) is None


def test_files_that_are_replaced_while_they_are_read_are_refused(tmp_path):
    blocks = write(tmp_path / "a", draw_columns(150))
    blocks.read(0)
    write(tmp_path / "a", draw_columns(150))
    with pytest.raises(UserError, match="block 9: replaced by another process since these rows were opened"):
        blocks.read(9)


def test_wrong_number_of_digests_is_named(tmp_path):
    blocks = write(tmp_path / "a", draw_columns(40))
    text = blocks.index_path.read_text()
    blocks.index_path.write_text(text.replace(blocks.digests[0], "", 1).replace('"",\n', "", 1).replace('""\n', "", 1))
    with pytest.raises(UserError, match=r"train\.json: 2 digests of 3 blocks"):
        open_row_blocks(tmp_path / "a", "train")


def test_files_have_no_note_beside_data_files_of_other_splits(tmp_path):
    write(tmp_path / "a", draw_columns(5))
    assert sorted(os.listdir(tmp_path / "a" / "blocks")) == [
        "train-00000.array_record",
        "train.checked.json",
        "train.json",
    ]
    assert np.array_equal(open_row_blocks(tmp_path / "a", "train").read(0)["labels"], draw_columns(5)["labels"])

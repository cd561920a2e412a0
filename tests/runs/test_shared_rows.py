"""Tests that rows which several runs share are those they were made of, and are written once."""

import dataclasses
import json
import threading

import pytest

from tests.runs.test_train_run import make_config, write_blocks
from wukong_jax.config import DataConfig
from wukong_jax.errors import UserError
from wukong_jax.files.whole_folder import write_whole_folder
from wukong_jax.runs.rows import open_run_data
from wukong_jax.runs.shared_rows import claim_made_folder, write_once
from wukong_jax.scaling import repeats
from wukong_jax.scaling.repeats import train_seeds


def open_rows(folder, seed):
    return open_run_data(DataConfig("blocks", path=write_blocks(folder, seed)["path"]), folder, print)


def test_a_folder_made_of_other_rows_is_refused(tmp_path):
    ours, same, other = open_rows(tmp_path / "a", 0), open_rows(tmp_path / "b", 0), open_rows(tmp_path / "c", 1)
    (tmp_path / "made").mkdir()
    claim_made_folder(tmp_path / "made", {"columns": ["x"]}, {"data": ours})
    claim_made_folder(tmp_path / "made", {"columns": ["x"]}, {"data": same})
    with pytest.raises(UserError, match=r"made: made with data = '2:.*', not '2:"):
        claim_made_folder(tmp_path / "made", {"columns": ["x"]}, {"data": other})
    with pytest.raises(UserError, match=r"made with columns"):
        claim_made_folder(tmp_path / "made", {"columns": ["y"]}, {"data": ours})


def test_a_record_of_an_earlier_version_is_compared_by_its_formula(tmp_path):
    ours, other = open_rows(tmp_path / "a", 0), open_rows(tmp_path / "b", 1)
    (tmp_path / "made").mkdir()
    note = tmp_path / "made.made_of.json"
    note.write_text(json.dumps({"data": ours._first_blocks}))
    with pytest.raises(UserError, match="made with data"):
        claim_made_folder(tmp_path / "made", {}, {"data": other})
    claim_made_folder(tmp_path / "made", {}, {"data": ours})
    assert json.loads(note.read_text()) == {"data": ours.fingerprint}


def test_a_record_of_rows_that_were_never_made_is_replaced(tmp_path):
    claim_made_folder(tmp_path / "made", {"path": "wrong"})
    claim_made_folder(tmp_path / "made", {"path": "right"})
    (tmp_path / "made").mkdir()
    with pytest.raises(UserError, match="made with path = 'right', not 'wrong'"):
        claim_made_folder(tmp_path / "made", {"path": "wrong"})
    claim_made_folder(tmp_path / "elsewhere", {"path": "a"}, read_from=tmp_path / "made")
    with pytest.raises(UserError, match="made with path = 'a', not 'b'"):
        claim_made_folder(tmp_path / "elsewhere", {"path": "b"}, read_from=tmp_path / "made")


def test_rows_are_written_once_by_several_at_a_time(tmp_path):
    calls, begun, end = [], threading.Event(), threading.Event()

    def write():
        with write_whole_folder(tmp_path / "rows") as aside:
            calls.append(aside)
            begun.set()
            end.wait(timeout=30)

    writers = [threading.Thread(target=write_once, args=(tmp_path / "rows", write)) for _ in range(3)]
    writers[0].start()
    assert begun.wait(timeout=30)
    for writer in writers[1:]:
        writer.start()
    end.set()
    for writer in writers:
        writer.join(timeout=30)
    assert len(calls) == 1
    write_once(tmp_path / "rows", write)
    assert len(calls) == 1


def test_seeds_that_were_trained_on_other_rows_are_not_averaged(tmp_path, monkeypatch):
    monkeypatch.setattr(repeats, "train", lambda config, folder, say: {"data_fingerprint": f"2:a:{config.seed // 2}"})
    config = dataclasses.replace(make_config(), seed=9)
    assert list(train_seeds(config, tmp_path, [0, 1])) == [0, 1]
    with pytest.raises(UserError, match=r"seed_2: was trained on other rows than seed_0"):
        train_seeds(config, tmp_path, [0, 2])

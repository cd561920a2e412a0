"""Tests that files and folders are written completely or not at all, whatever happens."""

import os

import pytest

from wukong_jax.errors import UserError
from wukong_jax.files.whole_files import open_whole, write_bytes_whole, write_text_whole
from wukong_jax.files.whole_folder import write_whole_folder


def test_a_file_takes_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    write_text_whole(path, "old")
    with open_whole(path) as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    write_bytes_whole(path, b"\x00")
    assert path.read_bytes() == b"\x00"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_text_whole(path, "old")
    with pytest.raises(TypeError, match="bytes-like"), open_whole(path, "wb") as file:
        file.writelines([b"ha", None])
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_takes_its_name_when_it_is_whole(tmp_path):
    with write_whole_folder(tmp_path / "out") as aside:
        (aside / "file").write_text("x")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "file").read_text() == "x"
    with pytest.raises(UserError, match="out: exists already"), write_whole_folder(tmp_path / "out"):
        pass


def test_a_folder_is_replaced_only_when_asked_and_whole(tmp_path):
    with write_whole_folder(tmp_path / "out") as aside:
        (aside / "old").write_text("x")
    with pytest.raises(ValueError, match="half"), write_whole_folder(tmp_path / "out", replace=True) as aside:
        raise ValueError("half")
    assert os.listdir(tmp_path / "out") == ["old"]
    with write_whole_folder(tmp_path / "out", replace=True) as aside:
        (aside / "new").write_text("x")
    assert os.listdir(tmp_path / "out") == ["new"]
    assert os.listdir(tmp_path) == ["out"]

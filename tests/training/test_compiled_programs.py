"""Tests that compiled programs are kept between starts, where, how many, and that this changes no result."""

import os
from pathlib import Path

import jax
import pytest

from tests.end_to_end.run_script import read_metrics, train_tiny
from wukong_jax.errors import UserError
from wukong_jax.training import compiled_programs
from wukong_jax.training.compiled_programs import keep_programs_between_starts, keep_programs_in


@pytest.fixture(autouse=True)
def restored_settings(tmp_path, monkeypatch):
    """Puts the settings of this process back, and the user's cache folder in a temporary one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    enabled = jax.config.jax_enable_compilation_cache
    with keep_programs_in(tmp_path / "before"):
        yield
    jax.config.update("jax_enable_compilation_cache", enabled)


def test_programs_are_kept_in_the_cache_folder_of_the_user(tmp_path):
    keep_programs_between_starts()
    (folder,) = (tmp_path / "cache" / "wukong_jax").iterdir()
    assert jax.config.jax_compilation_cache_dir == str(folder)
    assert folder.stat().st_mode & 0o077 == 0  # a program is code: nobody else may write it


def test_a_given_folder_counts_more_than_the_variable_which_counts_more_than_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "variable"))
    keep_programs_between_starts()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "before")  # JAX reads the variable at its import
    keep_programs_between_starts(str(tmp_path / "given"))
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "given")
    assert not (tmp_path / "cache").exists()


def test_none_keeps_nothing(tmp_path):
    keep_programs_between_starts("none")
    assert not jax.config.jax_enable_compilation_cache
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_cannot_be_made_is_refused_if_given_and_else_left_out(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_bytes(b"")
    with pytest.raises(UserError, match=r"--compiled_programs = .*give a folder, or none"):
        keep_programs_between_starts(str(file / "folder"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    keep_programs_between_starts()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "before")


def test_the_oldest_programs_go_first(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled_programs, "_KEPT_BYTES", 250)
    folder = tmp_path / "kept"
    folder.mkdir()
    for age, name in enumerate(("new", "middle", "old")):
        (folder / name).write_bytes(bytes(100))
        os.utime(folder / name, (1_000_000 - age, 1_000_000 - age))
    keep_programs_between_starts(str(folder))
    assert sorted(file.name for file in folder.iterdir()) == ["middle", "new"]


def test_a_second_start_loads_its_programs_and_trains_the_same(tmp_path):
    kept = tmp_path / "kept"
    flags = ("--config.training.steps=5", "--config.training.log_every_steps=1", f"--compiled_programs={kept}")
    train_tiny(tmp_path / "first", *flags)
    programs = _train_steps(kept)
    assert len(programs) == 1
    train_tiny(tmp_path / "second", *flags)
    assert _train_steps(kept) == programs
    losses = [[line.get("loss") for line in read_metrics(tmp_path / name)] for name in ("first", "second")]
    assert losses[0] == losses[1]


def _train_steps(folder: Path) -> dict[str, int]:
    """Returns the time at which each kept train step was written."""
    return {file.name: file.stat().st_mtime_ns for file in folder.glob("jit_train_step-*-cache")}

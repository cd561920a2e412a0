"""Tests that what a cut-off save has left is removed and named, and nothing else."""

from wukong_jax.runs.cut_off_saves import remove_cut_off_saves


def test_only_cut_off_saves_are_removed_and_each_is_named(tmp_path):
    folder = tmp_path / "checkpoints"
    for name in ("latest/10", "latest/20.orbax-checkpoint-tmp", "best/20.orbax-checkpoint-tmp-17"):
        (folder / name / "tables").mkdir(parents=True)
        (folder / name / "tables" / "part").write_text("rows")
    said = remove_cut_off_saves(folder)
    assert [path.name for path in sorted(folder.glob("*/*"))] == ["10"]
    assert said == [
        "removed checkpoints/best/20.orbax-checkpoint-tmp-17: the save of step 20 was cut off, an earlier one stays",
        "removed checkpoints/latest/20.orbax-checkpoint-tmp: the save of step 20 was cut off, an earlier one stays",
    ]
    assert remove_cut_off_saves(folder) == []


def test_a_run_without_checkpoints_has_none(tmp_path):
    assert remove_cut_off_saves(tmp_path / "checkpoints") == []

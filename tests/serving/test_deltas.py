"""Tests that a delta turns an artefact into the very files of a whole export, or leaves it alone."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from tests.cli.command import run_command
from tests.online.small_log import draw_day, run_log, write_days
from tests.serving.conftest import draw_shop_rows, open_on_one_device
from wukong_jax.errors import UserError
from wukong_jax.serving import load_scorer
from wukong_jax.serving.artefact import read_manifest
from wukong_jax.serving.deltas import apply_delta, write_delta
from wukong_jax.serving.export import export_run


def read_files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def silent(text):
    del text


def export_two(shop, folder, tables=None):
    """Exports a run to `base`, and with two rows of each stack and a weight changed, to `new`."""
    opened = open_on_one_device(shop / "run")
    export_run(opened, folder / "base", tables=tables, say=silent)
    changed = {
        name: stack._replace(rows=stack.rows.at[np.array([3, 7])].add(1)) for name, stack in opened.state.tables.items()
    }
    params = jax.tree.map(lambda leaf: leaf + 1e-3, opened.state.params)
    state = opened.state.replace(tables=changed, params=params, step=opened.state.step + 1)
    export_run(dataclasses.replace(opened, state=state), folder / "new", tables=tables, say=silent)


@pytest.mark.parametrize("tables", [None, "int8"])
def test_an_artefact_and_a_delta_are_the_new_artefact(shop, tables, tmp_path):
    export_two(shop, tmp_path, tables)
    before = load_scorer(tmp_path / "base")
    rows = draw_shop_rows(seed=3)
    old_scores = before.score(rows)
    assert write_delta(tmp_path / "base", tmp_path / "new", tmp_path / "delta") == 2
    stored = read_files(tmp_path / "delta")
    changed = [name for name in stored if name.startswith("rows/")]
    assert all(np.load(tmp_path / "delta" / name)["ids"].tolist() == [3, 7] for name in changed if ".rows." in name)
    assert not any(name.startswith(("whole/vocabulary", "whole/schema")) for name in stored)
    apply_delta(tmp_path / "base", tmp_path / "delta")
    assert read_files(tmp_path / "base") == read_files(tmp_path / "new")
    np.testing.assert_array_equal(load_scorer(tmp_path / "base").score(rows), load_scorer(tmp_path / "new").score(rows))
    np.testing.assert_array_equal(before.score(rows), old_scores)  # whoever has the old one keeps it
    with pytest.raises(UserError, match=r"delta: was made for another artefact than \S+base \(step \d+\)"):
        apply_delta(tmp_path / "base", tmp_path / "delta")


def test_a_delta_that_does_not_fit_changes_nothing(shop, tmp_path):
    export_two(shop, tmp_path)
    write_delta(tmp_path / "base", tmp_path / "new", tmp_path / "delta")
    before = read_files(tmp_path / "base")

    def refuse(change, message):
        shutil.copytree(tmp_path / "delta", tmp_path / "bad")
        change(tmp_path / "bad")
        with pytest.raises(UserError, match=message) as caught:
            apply_delta(tmp_path / "base", tmp_path / "bad")
        assert "\n" not in str(caught.value)
        assert read_files(tmp_path / "base") == before
        shutil.rmtree(tmp_path / "bad")

    def change_rows(folder):
        path = next((folder / "rows").rglob("*.npz"))
        arrays = dict(np.load(path))
        np.savez(path, ids=arrays["ids"], rows=arrays["rows"] + 1)

    def point_outside(folder):
        path = folder / "whole" / "manifest.json"
        manifest = json.loads(path.read_text(encoding="utf-8"))
        manifest["files"]["../elsewhere"] = {"bytes": 1, "digest": ""}
        path.write_text(json.dumps(manifest), encoding="utf-8")

    refuse(change_rows, r"bad: does not lead to the artefact that it should \(\S+ is not the file")
    refuse(lambda folder: next((folder / "rows").rglob("*.npz")).write_bytes(b"x"), "cannot read")
    refuse(lambda folder: (folder / "whole" / "weights.npz").unlink(), r"weights\.npz: is missing")
    refuse(lambda folder: (folder / "delta.json").unlink(), "No such file or directory; give a folder")
    refuse(lambda folder: (folder / "delta.json").write_text("{", encoding="utf-8"), "not JSON")
    refuse(point_outside, "lists '../elsewhere', which is outside the folder")
    with pytest.raises(UserError, match="exists already"):
        write_delta(tmp_path / "base", tmp_path / "new", tmp_path / "delta")
    table = next((tmp_path / "base" / "tables").iterdir())
    table.write_bytes(table.read_bytes()[:-1] + b"\x07")
    with pytest.raises(UserError, match="is not the file that was exported"):
        write_delta(tmp_path / "base", tmp_path / "new", tmp_path / "other")


def test_a_log_is_served_by_deltas(tmp_path, capsys):
    run_log(write_days(tmp_path / "log", range(2)), tmp_path / "run")
    run_command("export", f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'served'}", "--platforms=cpu")
    run_log(write_days(tmp_path / "log", range(2, 4)), tmp_path / "run")
    flags = (f"--workdir={tmp_path / 'run'}", "--platforms=cpu")
    run_command("export", *flags, f"--output={tmp_path / 'delta'}", f"--delta_of={tmp_path / 'served'}")
    run_command("apply_delta", f"--artefact={tmp_path / 'served'}", f"--delta={tmp_path / 'delta'}")
    run_command("export", *flags, f"--output={tmp_path / 'whole'}")
    served, whole = (read_files(tmp_path / name) for name in ("served", "whole"))
    manifests = [json.loads(files.pop("manifest.json")) for files in (served, whole)]
    for files, manifest in zip((served, whole), manifests, strict=True):
        # JAX may write one program as other bytes: this export is not the one that the delta was made from.
        del files["model.stablehlo"], manifest["files"]["model.stablehlo"]
    assert served == whole
    assert manifests[0] == manifests[1]
    scores = [load_scorer(tmp_path / name).score(draw_day(4)) for name in ("served", "whole")]
    np.testing.assert_array_equal(*scores)
    assert f"served: step {read_manifest(tmp_path / 'whole').step}" in capsys.readouterr().out

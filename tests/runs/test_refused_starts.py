"""Tests that a start that is refused leaves the run's folder byte for byte as it was, and that evaluation goes on."""

import dataclasses
import json
import os
import shutil

import pytest

from tests.runs.test_train_run import PLANTED, make_config, silent, write_blocks
from wukong_jax.config import build_run_config, run_config_to_json
from wukong_jax.errors import UserError
from wukong_jax.runs.open_run import open_run
from wukong_jax.runs.train_run import train_run


def snapshot(folder):
    """Every file with its content and time, except the lock."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def change(config, **keys):
    """Returns a config with dotted keys (dots as two underscores) replaced."""
    mapping = json.loads(run_config_to_json(config))
    for key, value in keys.items():
        *path, last = key.split("__")
        node = mapping
        for name in path:
            node = node[name]
        node[last] = value
    return build_run_config(mapping)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run over blocks, blocks of other rows, and a folder that lost a file."""
    place = tmp_path_factory.mktemp("trained")
    config = make_config(write_blocks(place / "ours", seed=0), steps=4)
    train_run(config, place / "run", silent)
    write_blocks(place / "other", seed=1)
    write_blocks(place / "other_schema", seed=0, categorical=False)
    write_blocks(place / "damaged", seed=0)
    (place / "damaged" / "blocks" / "train-00000.array_record").write_bytes(b"x" * 100)
    write_blocks(place / "no_schema", seed=0)
    (place / "no_schema" / "schema.json").unlink()
    return place, config, open_run(place / "run").evaluate()["auc"]


REFUSED = {
    "other rows": ({"data__path": "{place}/other"}, "holds different rows"),
    "other schema": ({"data__path": "{place}/other_schema"}, "holds different rows"),
    "damaged rows": ({"data__path": "{place}/damaged"}, "train-00000.array_record, block 0"),
    "no schema": ({"data__path": "{place}/no_schema"}, "holds no row blocks"),
    "wrong path": ({"data__path": "{place}/nowhere"}, "holds no row blocks"),
    "large mesh": ({"mesh__chips": 64}, "is 64 devices"),
    "mesh that divides no batch": ({"mesh__chips": 3}, "batch_size = 256"),
    "missing reference": ({"reference_run": "{place}/nowhere"}, "holds no summary.json"),
    "reference on other rows": ({"reference_run": "{place}/elsewhere"}, "not tested on this run's rows"),
    "another learning rate": ({"optimizer__learning_rate": 0.5}, "was started with"),
    "another seed": ({"seed": 5}, "was started with"),
    "bad option": ({"model__options": {"a": 1}}, "was started with"),
    "unknown exchange": ({"exchange__factory": "nowhere:build"}, "exchange.factory"),
    "exchange's bad option": ({"exchange__options": {"a": 1}}, "exchange.options.a"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refused_resume_changes_nothing(trained, kind):
    place, config, auc = trained
    keys, message = REFUSED[kind]
    (place / "elsewhere").mkdir(exist_ok=True)
    (place / "elsewhere" / "summary.json").write_text('{"name": "x", "test": {}, "data_fingerprint": "2:a:b"}')
    filled = {key: value.format(place=place) if isinstance(value, str) else value for key, value in keys.items()}
    before = snapshot(place / "run")
    with pytest.raises(UserError, match=message) as error:
        train_run(change(config, training__steps=6, **filled), place / "run", silent)
    assert "\n" not in str(error.value)
    assert snapshot(place / "run") == before
    assert open_run(place / "run").evaluate()["auc"] == auc


def test_a_resume_that_cannot_restore_changes_nothing(trained, tmp_path):
    place, config, _ = trained
    shutil.copytree(place / "run", tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob("*/*/dense/**/*"):
        if path.is_file():
            path.write_bytes(b"")
    before = snapshot(tmp_path / "run")
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the storage raises
        train_run(change(config, training__steps=6, training__log_every_steps=3), tmp_path / "run", silent)
    assert snapshot(tmp_path / "run") == before


@pytest.mark.parametrize("kind", ["large mesh", "missing reference", "wrong path", "unknown exchange"])
def test_a_refused_first_start_leaves_no_folder(trained, tmp_path, kind):
    place, config, _ = trained
    keys = {key: v.format(place=place) if isinstance(v, str) else v for key, v in REFUSED[kind][0].items()}
    with pytest.raises(UserError):
        train_run(change(config, **keys), tmp_path / "run", silent)
    assert os.listdir(tmp_path) == []


def test_a_refused_first_start_with_own_rows_keeps_only_the_rows(tmp_path):
    wrong = dataclasses.replace(make_config(), model=dataclasses.replace(make_config().model, options={"a": 1}))
    with pytest.raises(UserError, match=r"options\.a"):
        train_run(wrong, tmp_path / "run", silent)
    assert sorted(os.listdir(tmp_path / "run")) == [".lock", "data"]
    before = snapshot(tmp_path / "run")
    with pytest.raises(UserError, match="is 64 devices"):
        train_run(change(make_config(), mesh__chips=64), tmp_path / "run", silent)
    assert snapshot(tmp_path / "run") == before
    more_rows = {"factory": "planted_clicks", "options": PLANTED | {"train_rows": 1024}}
    assert train_run(make_config(more_rows), tmp_path / "run", silent)["training_rows"] == 1024


def test_the_rows_of_a_saved_run_are_not_made_again(tmp_path):
    train_run(make_config(steps=4), tmp_path / "run", silent)
    before = snapshot(tmp_path / "run")
    options = PLANTED | {"train_rows": 1024}
    with pytest.raises(UserError, match=r"data\.options\.train_rows = 1024: the run in .* was started with 2048"):
        train_run(make_config({"factory": "planted_clicks", "options": options}), tmp_path / "run", silent)
    assert snapshot(tmp_path / "run") == before


def test_changed_rows_under_the_same_path_are_refused_everywhere(tmp_path):
    """The nightly job prepares again what a run was trained on."""
    data = write_blocks(tmp_path / "rows", seed=0)
    train_run(make_config(data, steps=4), tmp_path / "run", silent)
    expected = open_run(tmp_path / "run").evaluate()["auc"]
    (tmp_path / "rows").rename(tmp_path / "moved")
    write_blocks(tmp_path / "rows", seed=1)
    with pytest.raises(UserError, match=r"different rows than those .* --config\.data\.path"):
        train_run(make_config(data, steps=6), tmp_path / "run", silent)
    opened = open_run(tmp_path / "run")
    for use in (opened.evaluate, lambda: opened.score_split("test"), lambda: list(opened.read_split("train"))):
        with pytest.raises(UserError, match=r"different rows than those this run was trained on; .* --data"):
            use()
    assert open_run(tmp_path / "run", str(tmp_path / "moved")).evaluate()["auc"] == expected
    rows = {"x": [0.5, -0.5], "item": [1, 2]}
    again = open_run(tmp_path / "run", str(tmp_path / "moved")).predict(rows)
    assert (opened.predict(rows) == again).all()  # the encoding is the same, which is all that predicting reads
    (tmp_path / "rows").rename(tmp_path / "second")
    write_blocks(tmp_path / "rows", seed=0, categorical=False)
    with pytest.raises(UserError, match="schema or vocabularies are not those this run was trained with"):
        open_run(tmp_path / "run")


def test_own_rows_that_were_moved_are_found_by_a_flag(tmp_path):
    train_run(make_config(steps=4), tmp_path / "run", silent)
    expected = open_run(tmp_path / "run").evaluate()["auc"]
    (tmp_path / "run" / "data").rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"the run's prepared rows are gone; put them back or give --data"):
        open_run(tmp_path / "run")
    assert open_run(tmp_path / "run", str(tmp_path / "moved")).evaluate()["auc"] == expected


def test_a_run_of_an_earlier_version_resumes_and_gets_the_new_fingerprint(tmp_path, monkeypatch):
    data = write_blocks(tmp_path / "rows", seed=0)
    with monkeypatch.context() as patch:
        patch.setattr("wukong_jax.runs.rows.RunData.fingerprint", property(lambda self: self._first_blocks))
        old = train_run(make_config(data, steps=4), tmp_path / "run", silent)
        assert len(old["data_fingerprint"]) == 16
    auc = open_run(tmp_path / "run").evaluate()["auc"]
    assert auc == old["test"]["auc"]
    other = write_blocks(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="different rows"):
        train_run(make_config(other, steps=6), tmp_path / "run", silent)
    with pytest.raises(UserError, match="schema or vocabularies"):
        open_run(tmp_path / "run", other["path"])
    assert train_run(make_config(data, steps=6), tmp_path / "run", silent)["data_fingerprint"].startswith("2:")
    reference = dataclasses.replace(make_config(data), reference_run=str(tmp_path / "run"))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text()) | {
        "data_fingerprint": old["data_fingerprint"]
    }
    (tmp_path / "run" / "summary.json").write_text(json.dumps(summary))
    assert list(train_run(reference, tmp_path / "second", silent)["references"]) == ["small (reference)"]

"""Tests that a run, its rows and its artefact on an object store are what they are in a local folder."""

import dataclasses
import json

import numpy as np
import polars as pl
import pytest

from tests.cli.command import run_command
from tests.object_stores.servers import serve_store
from wukong_jax.cli.parser import UsageError
from wukong_jax.config import RunConfig, build_run_config
from wukong_jax.data.blocks import store_copy
from wukong_jax.data.planted.clicks import PlantedClicksConfig, write_planted_clicks
from wukong_jax.errors import BusyError, UserError
from wukong_jax.files import store_lock
from wukong_jax.files.object_store import ObjectFolder, publish_folder
from wukong_jax.files.store_lock import LOCK
from wukong_jax.runs.folder import RunFolder
from wukong_jax.runs.open_run import open_run
from wukong_jax.runs.train_run import train_run
from wukong_jax.schema import CategoricalColumn, LabelColumn, Schema, Source, Split, schema_to_json
from wukong_jax.serving.export import export_run
from wukong_jax.serving.scorer import load_scorer

PLANTED = {
    "fields": 2,
    "values_per_field": 5,
    "orders": (1,),
    "order_shares": (1.0,),
    "train_rows": 2048,
    "validation_rows": 256,
    "test_rows": 256,
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store_copy.keep_copy.cache_clear()


@pytest.fixture(params=["memory", "gs", "s3"])
def store(request):
    with serve_store(request.param) as url:
        yield url


@pytest.fixture
def memory():
    with serve_store("memory") as url:
        yield url


def make_config(steps: int, data: dict | None = None) -> RunConfig:
    return build_run_config(
        {
            "name": "small",
            "data": data or {"factory": "planted_clicks", "options": PLANTED},
            "embeddings": {"width": 1, "optimizer": {"kind": "sgd", "learning_rate": 0.1}},
            "model": {"factory": "wukong_jax.models.logistic_regression:build"},
            "training": {"batch_size": 256, "evaluation_batch_size": 256, "steps": steps, "log_every_steps": 1}
            | {"checkpoint_every_steps": 1, "evaluate_every_steps": 2},
            "mesh": {"chips": 1},
        }
    )


def say(text):
    del text


def read_lines(text: str) -> list[dict]:
    """Returns metrics lines without what depends on the machine's speed."""
    lines = [json.loads(line) for line in text.splitlines()]
    return [{key: value for key, value in line.items() if key != "examples_per_second"} for line in lines]


def test_a_run_on_a_store_whose_save_was_cut_off_goes_on_exactly_and_equals_a_local_one(store, tmp_path):
    url = f"{store}/runs/mine"
    train_run(make_config(2), url, say)
    folder = ObjectFolder(url)
    first = folder.list()
    assert {"config.json", "metrics.jsonl", "summary.json", "data/schema.json", "data/made_of.json"} <= set(first)
    assert any(name.startswith("tensorboard/events") for name in first)
    assert {f"checkpoints/{which}/2/commit_success.txt" for which in ("latest", "best")} <= set(first)
    assert LOCK not in first
    folder.remove([f"checkpoints/{which}/2/commit_success.txt" for which in ("latest", "best")])
    said = []
    again = train_run(make_config(3), url, said.append)
    for which in ("latest", "best"):
        assert f"removed checkpoints/{which}/2: the save of step 2 was cut off, an earlier one stays" in said
    local = train_run(make_config(3), str(tmp_path / "local"), say)
    assert again["test"] == local["test"]
    assert again["data_fingerprint"] == local["data_fingerprint"]
    own = read_lines((tmp_path / "local" / "metrics.jsonl").read_text())
    assert read_lines(folder.read("metrics.jsonl").decode()) == own
    latest = {name.split("/")[2] for name in folder.list() if name.startswith("checkpoints/latest/")}
    assert latest == {"2", "3"}  # as many as are kept
    opened = open_run(url)
    assert opened.evaluate("test")["auc"] == local["test"]["auc"]
    assert len(opened.metrics()) == len(own)


def test_a_run_starts_from_one_on_a_store_as_from_a_local_one(store, tmp_path):
    for folder in (f"{store}/old", str(tmp_path / "old")):
        train_run(make_config(3), folder, say)
    before = ObjectFolder(f"{store}/old").list()
    said, summaries = [], []
    for name in (f"{store}/old", str(tmp_path / "old"), ""):
        config = dataclasses.replace(make_config(2), warm_start=name)
        summaries.append(train_run(config, str(tmp_path / f"new{len(summaries)}"), said.append))
    assert summaries[0]["test"] == summaries[1]["test"] != summaries[2]["test"]
    assert any(text.startswith(f"warm start from {store}/old, its best checkpoint, step 3:") for text in said)
    assert ObjectFolder(f"{store}/old").list() == before


def test_two_trainings_do_not_share_a_folder_on_a_store(memory, monkeypatch):
    monkeypatch.setattr(store_lock, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(store_lock, "_POLL_SECONDS", 0.2)
    first, second = (RunFolder(f"{memory}/run").locked() for _ in range(2))
    busy = f"--workdir = {memory}/run: another process is training there"
    with first, pytest.raises(BusyError, match=busy), second:
        pytest.fail("two hold the lock")


def test_rows_on_a_store_are_fetched_when_they_are_read_and_kept(memory, tmp_path):
    write_planted_clicks(PlantedClicksConfig(**PLANTED), tmp_path / "rows")
    url = f"{memory}/rows"
    publish_folder(tmp_path / "rows", ObjectFolder(url), "schema.json")
    local = train_run(make_config(4, {"factory": "blocks", "path": str(tmp_path / "rows")}), str(tmp_path / "a"), say)
    stored = train_run(make_config(4, {"factory": "blocks", "path": url}), f"{memory}/run", say)
    assert stored["test"] == local["test"]
    assert stored["data_fingerprint"] == local["data_fingerprint"]
    (kept,) = (tmp_path / "cache" / "wukong_jax" / "stores" / "rows").iterdir()
    assert {path.name for path in kept.glob("blocks/*.array_record")} == {
        f"{split}-00000.array_record" for split in ("train", "validation", "test")
    }
    ObjectFolder(url).remove(["blocks/test-00000.array_record"])  # the kept file is read
    assert open_run(f"{memory}/run").evaluate("test")["auc"] == local["test"]["auc"]


def test_a_record_file_with_other_rows_is_refused_and_not_kept(memory, tmp_path):
    for name, seed in (("rows", 0), ("other", 1)):
        write_planted_clicks(PlantedClicksConfig(**PLANTED, seed=seed), tmp_path / name)
    folder = ObjectFolder(f"{memory}/rows")
    publish_folder(tmp_path / "rows", folder, "schema.json")
    folder.upload({"blocks/train-00000.array_record": tmp_path / "other" / "blocks" / "train-00000.array_record"})
    with pytest.raises(UserError, match="holds other rows on the object store than its index says"):
        train_run(make_config(2, {"factory": "blocks", "path": folder.url}), str(tmp_path / "run"), say)
    assert not list((tmp_path / "cache").rglob("train-00000*"))


def test_an_artefact_on_a_store_scores_as_a_local_one(memory, tmp_path):
    train_run(make_config(4), f"{memory}/run", say)
    opened = open_run(f"{memory}/run")
    local = export_run(opened, tmp_path / "artefact", say=say)
    url = f"{memory}/served"
    publish_folder(tmp_path / "artefact", ObjectFolder(url), "manifest.json")
    rows = pl.DataFrame({column.name: ["1", "2"] for column in opened.schema.id_columns})
    np.testing.assert_array_equal(load_scorer(url, (16,)).score(rows), local.score(rows))
    (kept,) = (tmp_path / "cache" / "wukong_jax" / "stores" / "artefacts").iterdir()
    times = {path: path.stat().st_mtime_ns for path in kept.rglob("*")}
    load_scorer(url, (16,))  # of the kept copy
    assert {path: path.stat().st_mtime_ns for path in kept.rglob("*")} == times
    ObjectFolder(url).remove(["manifest.json"])
    with pytest.raises(UserError, match=r"holds no manifest\.json"):
        load_scorer(url, (16,))


def test_commands_put_row_blocks_and_artefacts_on_a_store(memory, tmp_path, capsys):
    schema = Schema(
        "clicks",
        Source("csv"),
        (LabelColumn("click"),),
        categorical=(CategoricalColumn("item"), CategoricalColumn("user", "hash", rows=9)),
        split=Split("random", validation_fraction=0.1, test_fraction=0.1),
    )
    (tmp_path / "schema.json").write_text(schema_to_json(schema))
    rows = "".join(f"{i % 3 % 2},{i % 7},{i % 5}\n" for i in range(1500))
    (tmp_path / "rows.csv").write_text("click,item,user\n" + rows)
    flags = [f"--schema={tmp_path}/schema.json", f"--input={tmp_path}/rows.csv", f"--output={memory}/rows"]
    run_command("prepare_data", *flags)
    with pytest.raises(UserError, match="exists; choose another folder or pass --overwrite"):
        run_command("prepare_data", *flags)
    run_command("prepare_data", *flags, "--overwrite")
    train_run(make_config(2, {"factory": "blocks", "path": f"{memory}/rows"}), f"{memory}/run", say)
    export = ["export", f"--workdir={memory}/run", f"--output={memory}/served", "--platforms=cpu"]
    run_command(*export)
    run_command(*export)  # replaces it
    assert f"wrote {memory}/served" in capsys.readouterr().out
    frame = pl.read_csv(tmp_path / "rows.csv", n_rows=20)
    scores = load_scorer(f"{memory}/served", (32,)).score(frame)
    np.testing.assert_allclose(scores, open_run(f"{memory}/run").predict(frame), rtol=1e-5)
    with pytest.raises(UserError, match="holds objects that are no artefact"):
        run_command("export", f"--workdir={memory}/run", f"--output={memory}/rows")
    with pytest.raises(UsageError, match=r"--output = .*cannot be on an object store; this command needs a local path"):
        run_command("predict", f"--workdir={memory}/run", "--input=rows.csv", f"--output={memory}/scores.csv")


def test_what_cannot_be_on_a_store_is_refused_in_one_line(memory):
    with pytest.raises(UserError, match="raw files to a local disk"):
        make_config(2, {"factory": "raw", "path": f"{memory}/raw.csv", "schema": "criteo"})
    with pytest.raises(UserError, match="holds no row blocks"):
        train_run(make_config(2, {"factory": "blocks", "path": f"{memory}/nothing"}), f"{memory}/run", say)
    with pytest.raises(UserError, match=r"holds no run \(no config\.json\)"):
        open_run(f"{memory}/nothing")
    with pytest.raises(UserError, match=rf"^config\.warm_start = '{memory}/nothing': holds no run \(no config\.json\)"):
        train_run(dataclasses.replace(make_config(2), warm_start=f"{memory}/nothing"), f"{memory}/run", say)
    export = ["export", f"--workdir={memory}/run", f"--output={memory}/delta", "--delta_of=served"]
    with pytest.raises(UserError, match=r"--output = .*cannot be on an object store; write the delta to a folder"):
        run_command(*export)
    with pytest.raises(UserError, match="2 processes write checkpoints together on gs:// or a shared disk only"):
        RunFolder(f"{memory}/run").check_processes(2)

"""Tests whole runs of a small model in this process: contents of a run's folder, refused changes, resuming."""

import dataclasses
import json

import numpy as np
import pytest

from wukong_jax.config import RunConfig, build_run_config
from wukong_jax.data.blocks.row_blocks import BlockWriter
from wukong_jax.errors import UserError
from wukong_jax.reports.result_table import format_results
from wukong_jax.runs import train_run as train_run_module
from wukong_jax.runs.folder import RunFolder
from wukong_jax.runs.train_run import train_run
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source, schema_to_json

PLANTED = {
    "fields": 2,
    "values_per_field": 5,
    "orders": (1,),
    "order_shares": (1.0,),
    "train_rows": 2048,
    "validation_rows": 512,
    "test_rows": 512,
}


def make_config(data=None, **training) -> RunConfig:
    return build_run_config(
        {
            "name": "small",
            "data": data or {"factory": "planted_clicks", "options": PLANTED},
            "embeddings": {"width": 1, "optimizer": {"kind": "sgd", "learning_rate": 0.1}},
            "model": {"factory": "wukong_jax.models.logistic_regression:build"},
            "training": {"batch_size": 256, "evaluation_batch_size": 256, "steps": 8, "log_every_steps": 2}
            | {"checkpoint_every_steps": 3}
            | training,
            "mesh": {"chips": 1},
        }
    )


def silent(text):
    del text


def write_blocks(folder, seed, categorical=True, test_rows=64):
    columns = (CategoricalColumn("item", "identity", rows=9),) if categorical else ()
    schema = Schema("made_up", Source("csv"), (LabelColumn("y"),), dense=(DenseColumn("x"),), categorical=columns)
    random = np.random.default_rng(seed)
    (folder / "blocks").mkdir(parents=True)
    (folder / "schema.json").write_text(schema_to_json(schema))
    for split, rows in (("train", 512), ("validation", 64), ("test", test_rows)):
        with BlockWriter(folder, split, schema) as writer:
            writer.append(
                {
                    "dense": random.normal(size=(rows, 1)).astype(np.float32),
                    "ids": random.integers(0, 9, (rows, len(columns))).astype(np.int32),
                    "labels": random.integers(0, 2, (rows, 1)).astype(np.float32),
                    "label_mask": np.ones((rows, 1), np.float32),
                    "domain": np.zeros(rows, np.int32),
                    "group": np.zeros(rows, np.int32),
                    "timestamp": np.zeros(rows, np.int64),
                    "weight": np.ones(rows, np.float32),
                }
            )
    return {"factory": "blocks", "path": str(folder)}


def test_a_first_start_that_failed_may_be_mended(tmp_path):
    wrong = dataclasses.replace(make_config(), model=dataclasses.replace(make_config().model, options={"a": 1}))
    with pytest.raises(UserError, match=r"options\.a"):
        train_run(wrong, tmp_path / "run", silent)
    other_rows = make_config({"factory": "planted_clicks", "options": PLANTED | {"train_rows": 1024}})
    summary = train_run(other_rows, tmp_path / "run", silent)
    assert summary["training_rows"] == 1024


def test_other_rows_under_a_moved_path_are_refused(tmp_path):
    data = write_blocks(tmp_path / "a", seed=0)
    train_run(make_config(data, steps=4), tmp_path / "run", silent)
    moved = write_blocks(tmp_path / "b", seed=0)
    train_run(make_config(moved, steps=6), tmp_path / "run", silent)
    other = write_blocks(tmp_path / "c", seed=1)
    with pytest.raises(UserError, match="different rows than those"):
        train_run(make_config(other, steps=8), tmp_path / "run", silent)


def test_data_without_ids_trains_and_resumes(tmp_path):
    data = write_blocks(tmp_path / "a", seed=0, categorical=False)
    train_run(make_config(data, steps=4), tmp_path / "run", silent)
    assert train_run(make_config(data, steps=6), tmp_path / "run", silent)["step"] == 6


def test_a_profile_spans_a_stop(tmp_path):
    profile = {"profile_first_step": 3, "profile_steps": 3}
    train_run(make_config(steps=4, **profile), tmp_path / "run", silent)
    assert train_run(make_config(**profile), tmp_path / "run", silent)["step"] == 8
    assert list((tmp_path / "run" / "tensorboard").rglob("*.xplane.pb"))


def test_a_loss_that_goes_bad_keeps_the_checkpoint_before_it(tmp_path, monkeypatch):
    data = write_blocks(tmp_path / "a", seed=0)
    put_batch, batches = train_run_module.put_batch, []

    def put_bad_batch(batch, mesh):
        batches.append(batch)
        return put_batch(batch._replace(dense=batch.dense * (np.inf if len(batches) == 6 else 1)), mesh)

    monkeypatch.setattr(train_run_module, "put_batch", put_bad_batch)
    with pytest.raises(UserError, match="step 6 is not finite; the checkpoint of step 4 stays"):
        train_run(make_config(data), tmp_path / "run", silent)
    monkeypatch.undo()
    assert train_run(make_config(data), tmp_path / "run", silent)["step"] == 8


def test_a_reference_must_have_been_tested_on_the_same_rows(tmp_path):
    data = write_blocks(tmp_path / "a", seed=0)
    train_run(make_config(data), tmp_path / "first", silent)
    with_reference = dataclasses.replace(make_config(data), reference_run=str(tmp_path / "first"))
    summary = train_run(with_reference, tmp_path / "second", silent)
    assert list(summary["references"]) == ["small (reference)"]
    assert format_results(summary).count("small") == 2
    elsewhere = dataclasses.replace(
        make_config(write_blocks(tmp_path / "b", seed=1)), reference_run=str(tmp_path / "first")
    )
    with pytest.raises(UserError, match="not tested on this run's rows"):
        train_run(elsewhere, tmp_path / "third", silent)


def test_plateaus_without_validation_rows_are_refused(tmp_path):
    config = make_config({"factory": "planted_clicks", "options": PLANTED | {"validation_rows": 0}}, plateau_factor=0.5)
    with pytest.raises(UserError, match=r"plateau_factor = 0\.5: the data has no validation rows"):
        train_run(config, tmp_path / "run", silent)


def test_two_trainers_in_one_folder_are_refused(tmp_path):
    with RunFolder(tmp_path / "run").locked(), pytest.raises(UserError, match="another process"):
        train_run(make_config(), tmp_path / "run", silent)


def test_a_longer_run_forgets_the_shorter_ones_results(tmp_path):
    train_run(make_config(steps=4), tmp_path / "run", silent)
    first = json.loads((tmp_path / "run" / "summary.json").read_text())
    summary = train_run(make_config(steps=8), tmp_path / "run", silent)
    assert (first["step"], summary["step"]) == (4, 8)
    lines = [json.loads(text) for text in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["split"] == "test"] == [8]


def test_a_metrics_file_is_cut_back_to_the_restored_step(tmp_path):
    folder = RunFolder(tmp_path)
    for step in (2, 4, 6):
        folder.append_metrics({"step": step, "split": "train", "loss": float("nan")})
    with folder.metrics.open("a") as file:
        file.write('{"step": 8, "spl')  # torn by a kill
    folder.cut_back_metrics(4)
    lines = [json.loads(text) for text in folder.metrics.read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert lines[0]["loss"] is None

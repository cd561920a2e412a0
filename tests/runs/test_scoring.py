"""Tests that scoring needs neither labels nor devices that divide a batch, and writes what it computes."""

import csv
import dataclasses
import functools
import os

import jax
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from tests.cli.command import run_command
from tests.runs.test_train_run import silent
from wukong_jax.config import build_run_config
from wukong_jax.errors import UserError
from wukong_jax.files.csv_text import quote_csv
from wukong_jax.runs import open_run as open_run_module
from wukong_jax.runs.open_run import open_run
from wukong_jax.runs.prediction import predict_file
from wukong_jax.runs.train_run import train_run
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source, Split, schema_to_json
from wukong_jax.training.run import build_run

CLICK, BUY = 'click, "really"', "buy\r"
SCHEMA = Schema(
    "shop",
    Source("csv"),
    (LabelColumn(CLICK, "clicked"), LabelColumn(BUY, "bought")),
    Split(by="random", validation_fraction=0.2, test_fraction=0.3),
    dense=(DenseColumn("x"),),
    categorical=(CategoricalColumn("item"),),
    domain="site",
    timestamp="time",
    group="user",
    weight="weight",
)
TARGETS = ("clicked", "bought", "time", "user", "weight")
ROWS = 700


def draw_rows(seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=ROWS).round(3)
    clicked = (random.random(ROWS) < 1 / (1 + np.exp(-2 * x))).astype(int)
    return pl.DataFrame(
        {
            "x": x,
            "item": [f"i{value}" for value in random.integers(0, 6, ROWS)],
            "site": [('a"b', "c,d")[value] for value in random.integers(0, 2, ROWS)],
            "clicked": [
                str(value) if seen else "" for value, seen in zip(clicked, random.random(ROWS) < 0.9, strict=True)
            ],
            "bought": (random.random(ROWS) < 0.3).astype(int),
            "time": np.arange(ROWS) + 10**9,
            "user": random.integers(0, 40, ROWS),
            "weight": random.choice([0.0, 0.5, 1.0, 2.0], ROWS),
        }
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run over two objectives and two domains, and its raw file."""
    folder = tmp_path_factory.mktemp("place")
    draw_rows().write_csv(folder / "rows.csv")
    (folder / "schema.json").write_text(schema_to_json(SCHEMA))
    config = build_run_config(
        {
            "name": "scored",
            "data": {"factory": "raw", "path": str(folder / "rows.csv"), "schema": str(folder / "schema.json")},
            "embeddings": {"width": 2, "optimizer": {"kind": "sgd", "learning_rate": 0.1}},
            "model": {"factory": "wukong_jax.models.logistic_regression:build"},
            "training": {"batch_size": 16, "evaluation_batch_size": 40, "epochs": 2},
            "optimizer": {"learning_rate": 0.1},
        }
    )
    train_run(config, folder / "run", silent)
    return folder


def open_on(monkeypatch, workdir, devices):
    """Opens a run on some of the eight fake devices."""
    build = functools.partial(build_run, devices=jax.devices()[:devices])
    monkeypatch.setattr(open_run_module, "build_run", build)
    return open_run(workdir)


@pytest.mark.parametrize("devices", [2, 3, 5, 6, 7])
def test_any_number_of_devices_scores_like_one(place, monkeypatch, devices):
    one = open_on(monkeypatch, place / "run", 1)
    several = open_on(monkeypatch, place / "run", devices)
    assert several.run.mesh.size == devices
    assert several.run.evaluation_batch_size % devices == 0
    np.testing.assert_allclose(several.predict(place / "rows.csv"), one.predict(place / "rows.csv"), rtol=1e-6)
    expected, found = one.evaluate(), several.evaluate()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-6, nan_ok=True), name  # another order of float32 sums


def test_training_still_asks_for_a_batch_that_divides(place):
    config = open_run(place / "run").config
    with pytest.raises(UserError, match=r"config\.training\.batch_size = 16: not a multiple of the mesh's 3 devices"):
        build_run(config, SCHEMA, devices=jax.devices()[:3])


UNREAD = st.dictionaries(
    st.sampled_from(TARGETS), st.one_of(st.none(), st.sampled_from(["?", "abc", "-5", "", "1e999", "NaN"]))
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(UNREAD)
def test_columns_that_scoring_does_not_use_are_not_read(place, tmp_path_factory, values):
    """A column is left out for None, and else holds the value in every row."""
    folder, opened = tmp_path_factory.mktemp("rows"), open_cached(place)
    rows, expected = draw_rows(), predict_all(place)
    kept = rows.drop([name for name, value in values.items() if value is None])
    kept = kept.with_columns(pl.lit(value).alias(name) for name, value in values.items() if value is not None)
    kept.write_csv(folder / "rows.csv")
    assert (opened.predict(folder / "rows.csv") == expected).all()
    assert (opened.predict(kept) == expected).all()


def test_a_parquet_file_may_have_any_type_in_columns_that_are_not_read(place, tmp_path):
    opened = open_cached(place)
    parquet = dataclasses.replace(opened.run.schema, source=Source("parquet"))
    of_parquet = dataclasses.replace(opened, run=dataclasses.replace(opened.run, schema=parquet))
    nested = draw_rows().with_columns(clicked=pl.Series([{"a": [1]}] * ROWS), weight=pl.Series([[1, 2]] * ROWS))
    nested.write_parquet(tmp_path / "rows.parquet")
    assert (of_parquet.predict(tmp_path / "rows.parquet") == predict_all(place)).all()


@functools.cache
def open_cached(place):
    return open_run(place / "run")


@functools.cache
def predict_all(place):
    return open_cached(place).predict(place / "rows.csv")


def test_the_header_of_the_scores_is_quoted(place, tmp_path):
    predict_file(open_cached(place), place / "rows.csv", tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open(newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file, strict=True)
    assert header == [CLICK, BUY]
    assert (np.array(lines, np.float64) == predict_all(place)).all()


@pytest.mark.parametrize("name", ["itself", "relative path", "symlink", "hard link", "temporary name", "folder's link"])
def test_the_input_is_never_overwritten(place, tmp_path, monkeypatch, name):
    source = tmp_path / ("rows.csv.writing" if name == "temporary name" else "rows.csv")
    source.write_bytes((place / "rows.csv").read_bytes())
    target = tmp_path / ("rows.csv" if name in ("itself", "temporary name") else "link.csv")
    if name == "symlink":
        target.symlink_to(source)
    elif name == "hard link":
        os.link(source, target)
    elif name == "relative path":
        monkeypatch.chdir(tmp_path)
        target = target.parent.relative_to(tmp_path) / "rows.csv"
    elif name == "folder's link":
        (tmp_path / "again").symlink_to(tmp_path)
        target = tmp_path / "again" / "rows.csv"
    before = source.read_bytes()
    with pytest.raises(UserError, match=r"--output = .*: would overwrite the --input .*; give another file"):
        run_command("predict", f"--workdir={place}/run", f"--input={source}", f"--output={target}")
    assert source.read_bytes() == before


def test_an_input_without_rows_gives_scores_without_rows(place, tmp_path):
    (tmp_path / "rows.csv").write_text(",".join(draw_rows().columns) + "\n")
    run_command("predict", f"--workdir={place}/run", f"--input={tmp_path}/rows.csv", f"--output={tmp_path}/scores.csv")
    assert (tmp_path / "scores.csv").read_bytes().decode() == f"{quote_csv(CLICK)},{quote_csv(BUY)}\n"
    assert open_cached(place).predict(draw_rows().clear()).shape == (0, 2)


def test_a_missing_input_is_one_line(place, tmp_path):
    with pytest.raises(UserError, match=r"--input = .*nothing\.csv: no such file; give") as error:
        run_command(
            "predict", f"--workdir={place}/run", f"--input={tmp_path}/nothing.csv", f"--output={tmp_path}/o.csv"
        )
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"--input = .*: a folder; give"):
        run_command("predict", f"--workdir={place}/run", f"--input={tmp_path}", f"--output={tmp_path}/o.csv")
    assert os.listdir(tmp_path) == []


# --- evaluate --predictions ---


def read_predictions(path):
    with path.open(newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file, strict=True)
    return header, {name: [line[place] for line in lines] for place, name in enumerate(header)}


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_scikit_learn_finds_the_metrics_in_the_predictions(place, tmp_path, split):
    metrics = open_cached(place).evaluate(split, tmp_path / "scores.csv")
    assert metrics == open_cached(place).evaluate(split)
    header, columns = read_predictions(tmp_path / "scores.csv")
    assert header == ["row", "domain"] + [f"{name}/{part}" for name in (CLICK, BUY) for part in ("label", "score")] + [
        "weight"
    ]
    assert columns["row"] == list(map(str, range(open_cached(place).data.splits[split].rows)))
    assert set(columns["domain"]) == {'a"b', "c,d"}
    weight, domain = np.array(columns["weight"], float), np.array(columns["domain"])
    assert set(weight) == {0.0, 0.5, 1.0, 2.0}
    for name in (CLICK, BUY):
        label, score = np.array(columns[f"{name}/label"]), np.array(columns[f"{name}/score"], float)
        assert ("" in label) == (name == CLICK)
        for prefix, of_domain in (("", True), ('a"b/', domain == 'a"b'), ("c,d/", domain == "c,d")):
            kept = (label != "") & (weight > 0) & of_domain
            known = label[kept].astype(int), score[kept]
            auc = roc_auc_score(*known, sample_weight=weight[kept])
            loss = log_loss(*known, sample_weight=weight[kept])
            assert metrics[f"{prefix}{name}/auc"] == pytest.approx(auc, abs=1e-12)
            assert metrics[f"{prefix}{name}/log_loss"] == pytest.approx(loss, rel=1e-6)  # float32 logits


def test_predictions_are_those_of_the_raw_rows_in_the_order_of_the_split(place, tmp_path):
    """Rows of a split keep the order of the raw file, so their scores are found there in this order."""
    scores = []
    for split in ("train", "validation", "test"):
        open_cached(place).evaluate(split, tmp_path / "scores.csv")
        scores.append(read_predictions(tmp_path / "scores.csv")[1][f"{BUY}/score"])
    expected = predict_all(place)[:, 1].tolist()
    for found in scores:
        rest = iter(expected)
        assert all(any(abs(value - float(score)) < 1e-6 for value in rest) for score in found)
    assert sum(map(len, scores)) == ROWS


def test_rows_of_the_binned_metrics_are_written_too(place, tmp_path):
    opened = open_cached(place)
    training = dataclasses.replace(opened.config.training, exact_auc_rows=0)
    binned = dataclasses.replace(
        opened, run=dataclasses.replace(opened.run, config=dataclasses.replace(opened.config, training=training))
    )
    opened.evaluate("test", tmp_path / "exact.csv")
    binned.evaluate("test", tmp_path / "binned.csv")
    assert (tmp_path / "exact.csv").read_bytes() == (tmp_path / "binned.csv").read_bytes()


def test_predictions_appear_whole_or_not_at_all(place, tmp_path, monkeypatch, capsys):
    with pytest.raises(UserError, match="--split = 'nothing'"):
        open_cached(place).evaluate("nothing", tmp_path / "scores.csv")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"--predictions = .*folder: Is a directory; give a writable file"):
        open_cached(place).evaluate("test", tmp_path / "folder")
    monkeypatch.setattr("wukong_jax.runs.evaluation.compute_exact_metrics", None)
    with pytest.raises(TypeError):
        open_cached(place).evaluate("test", tmp_path / "scores.csv")
    assert os.listdir(tmp_path) == ["folder"]
    monkeypatch.undo()
    run_command("evaluate", f"--workdir={place}/run", f"--predictions={tmp_path}/new/scores.csv")
    assert '"split": "test"' in capsys.readouterr().out
    assert (tmp_path / "new" / "scores.csv").read_text().startswith("row,domain," + quote_csv(f"{CLICK}/label"))

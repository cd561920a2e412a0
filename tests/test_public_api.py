"""Tests the API of `import wukong_jax`: lazy imports, and the same numbers as the commands."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

import wukong_jax
from tests.end_to_end.run_script import run_script
from wukong_jax.config import build_run_config, start_config
from wukong_jax.data.blocks.batch import COLUMN_DTYPES
from wukong_jax.errors import UserError
from wukong_jax.factories import load_factory
from wukong_jax.runs.prediction import predict_file
from wukong_jax.schema import schema_to_json
from wukong_jax.training.loop import Listener

ROWS = 600
SCHEMA = {
    "name": "shop",
    "source": {"format": "csv", "missing": ["", "NA"]},
    "split": {"by": "random", "validation_fraction": 0.2, "test_fraction": 0.2},
    "labels": [{"name": "click"}],
    "dense": [
        {"name": "age", "transform": "standardise", "missing_value": 30.0},
        {"name": "price", "transform": "log1p"},
    ],
    "categorical": [
        {"name": "item", "min_count": 2},
        {"name": "city", "encoding": "hash", "rows": 13},
        {"name": "shelf", "encoding": "identity", "rows": 5},
        {"name": "score", "min_count": 1},
        {"name": "tags", "separator": "|", "max_length": 2},
    ],
    "domain": "site",
    "timestamp": "time",
    "weight": "importance",
}
FEATURES = ("item", "city", "shelf", "score", "tags", "age", "price", "site")


def draw_texts():
    """Draws the columns of a raw file as text; "" and "NA" are missing values."""
    rng = np.random.default_rng(3)
    pick = rng.choice
    return {
        "item": [str(value) for value in rng.integers(0, 40, ROWS)],
        "city": pick(["", "Rome", "Köln", "NA"], ROWS).tolist(),
        "shelf": [str(value) for value in rng.integers(0, 6, ROWS)],
        "score": pick(["0.5", "2.25", "7.125", ""], ROWS).tolist(),
        "tags": pick(["a", "b|c", "", "d|a|b"], ROWS).tolist(),
        "age": pick(["", "18", "44.5", "63"], ROWS).tolist(),
        "price": [f"{value:.2f}" for value in rng.normal(5, 10, ROWS)],
        "site": pick(["web", "app"], ROWS).tolist(),
        "time": [str(1_700_000_000 + value) for value in range(ROWS)],
        "importance": pick(["0", "1", "2.5"], ROWS).tolist(),
        "click": [str(value) for value in rng.integers(0, 2, ROWS)],
    }


def make_config(folder):
    config = start_config()
    config.name = "shop"
    config.data.factory = "raw"
    config.data.path = str(folder / "rows.csv")
    config.data.schema = str(folder / "shop.json")
    config.embeddings.width = 4
    config.embeddings.optimizer = {"kind": "adagrad", "learning_rate": 0.05}
    config.model.factory = "wukong_jax.models.fm:build"
    config.mesh.chips = 1
    config.training.batch_size = 64
    config.training.evaluation_batch_size = 64
    config.training.epochs = 2
    config.training.log_every_steps = 3
    return config


class Ears(Listener):
    def __init__(self):
        self.heard = []

    def on_start(self, start):
        self.heard.append(("start", start.name, start.total_steps))

    def on_log(self, line):
        self.heard.append(("log", line["step"]))

    def on_evaluation(self, line, best):
        self.heard.append((line["split"], line["step"]))

    def on_end(self, summary):
        self.heard.append(("end", summary["step"]))

    def close(self):
        self.heard.append(("close",))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api")
    pl.DataFrame(draw_texts()).write_csv(folder / "rows.csv")
    (folder / "shop.json").write_text(json.dumps(SCHEMA))
    ears = Ears()
    summary = wukong_jax.train(make_config(folder), folder / "run", lambda text: None, listeners=[ears])
    return folder, wukong_jax.open_run(folder / "run"), summary, ears


@pytest.fixture(scope="module")
def expected(trained):
    """Returns the scores that `predict_file` writes for the rows."""
    folder, run, *_ = trained
    written = predict_file(run, folder / "rows.csv", folder / "scores.csv")
    scores = pl.read_csv(folder / "scores.csv", schema={"click": pl.Float64()}).to_numpy()
    assert written == len(scores) == ROWS
    assert len(np.unique(scores)) > ROWS / 4  # the model tells rows apart
    return scores


def to_types(texts):
    """Converts the columns to their types in memory: numbers for numeric columns, None for missing values."""
    columns = {name: [None if text in ("", "NA") else text for text in column] for name, column in texts.items()}
    for name, kind in {"item": int, "shelf": int, "score": float, "age": float, "price": float}.items():
        columns[name] = [None if text is None else kind(text) for text in columns[name]]
    return columns


def test_import_is_fast_and_touches_nothing():
    code = (
        "import sys, time; began = time.perf_counter(); import wukong_jax; seconds = time.perf_counter() - began;"
        "names = wukong_jax.list_models(); dir(wukong_jax);"
        "print(seconds, [name for name in ('jax', 'numpy', 'polars', 'dmt', 'lattice') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, _, loaded = done.stdout.partition(" ")
    assert float(seconds) < 0.5
    assert loaded.strip() == "[]"


@pytest.mark.parametrize("name", wukong_jax.__all__)
def test_every_public_name_is_there(name):
    if name == "load_config" and importlib.util.find_spec("wukong_jax.config_files") is None:
        pytest.skip("wukong_jax.config_files is not there yet")
    assert callable(getattr(wukong_jax, name))
    assert name in dir(wukong_jax)


def test_a_name_that_is_not_public_is_refused():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        wukong_jax.trian  # noqa: B018


@pytest.mark.parametrize("name", wukong_jax.list_models())
def test_every_listed_model_loads(name):
    assert callable(load_factory("config.model.factory", name))


def test_models_of_all_three_packages_are_listed():
    names = wukong_jax.list_models()
    assert {"wukong_jax.models.wukong:build", "dmt.model:build"} <= set(names)
    assert any(name.startswith("lattice.network.") for name in names)
    assert not any("exchange" in name or "loss" in name for name in names)  # their factories take other arguments


def test_train_returns_the_summary_and_writes_the_report(trained):
    folder, run, summary, _ = trained
    assert summary["test"] == json.loads((folder / "run" / "summary.json").read_text())["test"]
    assert (folder / "run" / "report.html").exists()
    assert run.config.name == "shop"
    assert run.schema.domain_values == ("app", "web")


def test_listeners_hear_of_the_whole_run_in_order(trained):
    *_, summary, ears = trained
    last = summary["step"]
    assert ears.heard[:2] == [("start", "shop", last), ("log", 3)]
    assert ears.heard[-5:] == [("log", last), ("validation", last), ("test", last), ("end", last), ("close",)]


def test_a_run_config_and_a_plain_mapping_go_on_with_the_same_run(trained):
    folder, _, summary, _ = trained
    config = make_config(folder)
    for same in (config.to_dict(), build_run_config(config)):
        assert wukong_jax.train(same, str(folder / "run"), lambda text: None)["test"] == summary["test"]


def test_evaluate_gives_the_summary_s_metrics(trained):
    _, run, summary, _ = trained
    assert run.evaluate() == summary["test"]
    assert run.evaluate("validation") == summary["validation"]
    with pytest.raises(UserError, match="--split = 'tset': the data has only train, validation, test"):
        run.evaluate("tset")


def test_metrics_is_a_frame_of_the_lines(trained):
    folder, run, _, _ = trained
    lines = [json.loads(text) for text in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    frame = run.metrics()
    assert frame["step"].to_list() == [line["step"] for line in lines]
    assert frame["loss"].to_list() == [line.get("loss") for line in lines]
    assert frame.filter(pl.col("split") == "test")["auc"].to_list() == [lines[-1]["auc"]]


@pytest.mark.parametrize(
    "build",
    [
        lambda folder: folder / "rows.csv",
        lambda folder: str(folder / "rows.csv"),
        lambda folder: pl.DataFrame(draw_texts()),  # as a file read as text, missing values as they stand in it
        lambda folder: pl.read_csv(folder / "rows.csv", null_values="NA"),
        lambda folder: pl.read_csv(folder / "rows.csv", null_values="NA").select(FEATURES),
        lambda folder: to_types(draw_texts()),
        lambda folder: {name: column for name, column in to_types(draw_texts()).items() if name in FEATURES},
        lambda folder: pl.DataFrame(to_types(draw_texts())).with_columns(pl.col("city").cast(pl.Categorical)),
        lambda folder: pl.DataFrame(to_types(draw_texts())).cast({"item": pl.Float64}),
        lambda folder: pl.DataFrame(to_types(draw_texts())).cast({"item": pl.Decimal(20, 2)}),
        lambda folder: to_types(draw_texts()) | {"tags": [text.split("|") for text in draw_texts()["tags"]]},
    ],
    ids=[
        "path",
        "str",
        "texts",
        "frame",
        "features alone",
        "dict",
        "dict of features",
        "categorical",
        "floats",
        "decimals",
        "lists",
    ],
)
def test_predict_equals_the_file_bit_for_bit(trained, expected, build):
    folder, run, *_ = trained
    scores = run.predict(build(folder))
    assert scores.dtype == np.float64
    np.testing.assert_array_equal(scores, expected)


def test_predict_of_a_pandas_frame_equals_the_file(trained, expected):
    pandas = pytest.importorskip("pandas")
    folder, run, *_ = trained
    np.testing.assert_array_equal(run.predict(pandas.read_csv(folder / "rows.csv")), expected)
    with_gap = pandas.read_csv(folder / "rows.csv")
    with_gap.loc[0, "item"] = None  # pandas turns the integers into floats
    np.testing.assert_array_equal(run.predict(with_gap)[1:], expected[1:])
    np.testing.assert_array_equal(run.predict(with_gap), run.predict(with_gap.astype({"item": "Int64"})))


class PandasColumn:
    """Behaves as a pandas column, for tests without pandas."""

    def __init__(self, values):
        self.values = values
        floats = all(isinstance(value, float) or value is None for value in values)
        self.dtype = np.dtype(np.float64 if floats else object)

    def notna(self):
        return PandasColumn([value is not None and value == value for value in self.values])

    def astype(self, kind):
        assert kind is object
        return self

    def where(self, keep, other):
        return PandasColumn([value if kept else other for value, kept in zip(self.values, keep.values, strict=True)])

    def to_list(self):
        return self.values

    def to_numpy(self):
        return np.array(self.values, np.float64)


class PandasFrame:
    """Behaves as a pandas frame: missing values are NaN, also in text columns."""

    def __init__(self, columns):
        nan = float("nan")
        self.held = {name: [nan if v is None else v for v in column] for name, column in columns.items()}
        self.columns = list(columns)

    def notna(self):
        raise AssertionError("asked of columns only")

    def __getitem__(self, name):
        return PandasColumn(self.held[name])


def test_predict_takes_what_behaves_as_pandas(trained, expected):
    _, run, *_ = trained
    np.testing.assert_array_equal(run.predict(PandasFrame(to_types(draw_texts()))), expected)


def test_any_number_of_rows_gives_as_many_scores(trained, expected):
    _, run, *_ = trained
    frame = pl.DataFrame(draw_texts())
    for rows in (0, 1, 63, 64, 65):
        scores = run.predict(frame.head(rows))
        assert scores.shape == (rows, 1)
        np.testing.assert_array_equal(scores, expected[:rows])


def test_more_rows_than_are_encoded_at_once_keep_their_order(trained, expected, monkeypatch):
    _, run, *_ = trained
    monkeypatch.setattr("wukong_jax.data.raw.new_rows._FRAME_ROWS", 7)
    np.testing.assert_array_equal(run.predict(pl.DataFrame(draw_texts())), expected)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (lambda: {"item": [1]}, "rows: no column 'age'; it has item"),
        (lambda: pl.DataFrame(draw_texts()).with_columns(age=pl.lit("old")), "rows, line 1, column 'age' = 'old'"),
        (lambda: pl.DataFrame(draw_texts()).with_columns(site=pl.lit("tv")), "line 1, column 'site' = 'tv'"),
        (lambda: draw_texts() | {"item": [2.0**53] * ROWS}, "rows, line 1, column 'item' = .*: expected an exact id"),
        (
            lambda: draw_texts() | {"item": [[1]] * ROWS},
            "column 'item': has type List.Int64.; the schema has one",
        ),
        (lambda: draw_texts() | {"item": [1]}, "rows: cannot be converted to a frame"),
        (lambda: draw_texts() | {"item": [object()] * ROWS}, "column 'item': holds Python objects"),
        (lambda: [1, 2], "rows: a list; give a polars or pandas frame"),
    ],
)
def test_rows_that_cannot_be_scored_are_refused_in_one_line(trained, rows, message):
    _, run, *_ = trained
    with pytest.raises(UserError, match=message) as error:
        run.predict(rows())
    assert "\n" not in str(error.value)


def test_a_parquet_run_reads_frames_as_parquet(tmp_path):
    """Floats as ids have the text that prepare gave them."""
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {"item": rng.integers(0, 9, 200).astype(float), "click": rng.integers(0, 2, 200), "price": 1.0}
    )
    frame.write_parquet(tmp_path / "rows.parquet")
    schema = {"name": "p", "source": {"format": "parquet"}, "labels": [{"name": "click"}], "split": SCHEMA["split"]}
    columns = {"dense": [{"name": "price"}], "categorical": [{"name": "item"}]}
    (tmp_path / "p.json").write_text(json.dumps(schema | columns))
    config = make_config(tmp_path)
    config.data.path, config.data.schema = str(tmp_path / "rows.parquet"), str(tmp_path / "p.json")
    wukong_jax.train(config, tmp_path / "run", lambda text: None)
    run = wukong_jax.open_run(tmp_path / "run")
    scores = run.predict(frame)
    np.testing.assert_array_equal(scores, run.predict(tmp_path / "rows.parquet"))
    assert len(np.unique(scores)) == 9


def test_a_run_of_an_older_version_opens_with_an_option_that_has_no_effect(trained, tmp_path):
    """Such options are refused in new configs; older versions accepted them, and their runs must stay readable."""
    config = make_config(trained[0])
    config.model.factory = "wukong_jax.models.wukong:build"
    config.model.options = {"layers": 1, "fmb_tokens": 2, "lcb_tokens": 2, "fmb_hidden": (4,), "head_hidden": ()}
    config.training.epochs = 1
    wukong_jax.train(config, tmp_path / "run", lambda text: None)
    path = tmp_path / "run" / "config.json"
    older = json.loads(path.read_text())
    older["model"]["options"]["head_dropout"] = 0.1
    path.write_text(json.dumps(older))
    assert wukong_jax.open_run(tmp_path / "run").config.model.options["head_dropout"] == 0.1
    with pytest.raises(UserError, match=r"head_dropout = 0\.1: has no effect"):
        wukong_jax.train(older, tmp_path / "new", lambda text: None)


def test_the_schema_is_public(trained):
    _, run, *_ = trained
    assert isinstance(run.schema, wukong_jax.Schema)
    assert json.loads(schema_to_json(run.schema))["name"] == "shop"
    assert "ids" in COLUMN_DTYPES


@pytest.mark.slow
def test_the_command_writes_the_same_scores(trained, expected, tmp_path):
    folder, *_ = trained
    flags = (f"--workdir={folder / 'run'}", f"--input={folder / 'rows.csv'}", f"--output={tmp_path / 'scores.csv'}")
    code, _, err = run_script("predict.py", *flags)
    assert code == 0, err
    assert (tmp_path / "scores.csv").read_bytes() == (folder / "scores.csv").read_bytes()

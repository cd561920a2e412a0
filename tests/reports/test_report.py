"""Tests the report of a complete run, of a running one, and of broken files."""

import html.parser
import json
import math

import numpy as np
import pytest
from matplotlib.image import imread

from wukong_jax.errors import UserError
from wukong_jax.reports.run_pictures import draw_auc, draw_calibration, draw_loss
from wukong_jax.reports.run_report import write_report
from wukong_jax.reports.theme import DARK, LIGHT
from wukong_jax.runs.record import RunRecord, load_run_record

CONFIG = {
    "name": "<b>bold</b> run",
    "data": {"factory": "raw", "path": "rows.csv", "schema": "frappe"},
    "model": {"factory": "wukong_jax.models.wukong:build", "options": {}},
    "training": {"batch_size": 4096},
    "optimizer": {"factory": "adam", "learning_rate": 0.001},
    "embeddings": {"optimizer": {"kind": "rowwise_adagrad", "learning_rate": 0.05}},
    "seed": 7,
}
TEST = {"auc": 0.8391, "log_loss": 0.36, "normalized_entropy": 0.70123, "calibration": 1.004, "rows": 200000.0}
REFERENCES = {
    "bayes": {"auc": 0.8475, "log_loss": 0.35, "normalized_entropy": 0.69},
    "logistic regression": {"auc": 0.79, "log_loss": 0.41, "normalized_entropy": 0.79},
}
SUMMARY = {
    "step": 1000,
    "scored_step": 900,
    "best_step": 900,
    "stopped_because": "all steps done",
    "examples_seen": 4096000,
    "examples_per_second": 201234.5,
    "wall_seconds": 3723.0,
    "dense_parameters": 123456,
    "embedding_parameters": 12345678,
    "train_flops_per_example": 1.03e6,
    "validation": {**TEST, "auc": 0.83},
    "test": TEST,
    "references": REFERENCES,
}
CURVE = [{"predicted": p, "observed": p * 1.05, "weight": 500.0} for p in (0.01, 0.1, 0.3, 0.6)]


def make_lines(steps=1000, every=10):
    lines = []
    for step in range(every, steps + 1, every):
        lines.append({"step": step, "split": "train", "loss": 0.36 + math.exp(-step / 100), "examples_per_second": 1e5})
        if step % 100 == 0:
            lines.append({"step": step, "split": "validation", "auc": 0.8 + step / 1e5, "log_loss": 0.4 - step / 1e5})
    return lines


def write_run(folder, lines=(), summary=None, curve=None, config=CONFIG):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if lines:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    if curve is not None:
        (folder / "calibration.json").write_text(json.dumps(curve))
    return folder


class Page(html.parser.HTMLParser):
    """Parses a page as a browser would: texts, pictures, links, scripts, and unmatched tags."""

    def __init__(self, text):
        super().__init__()
        self.texts, self.sources, self.tags, self.open = [], [], [], []
        self.alternatives = 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        self.sources += [attributes[key] for key in ("src", "srcset", "href") if key in attributes]
        self.alternatives += bool(attributes.get("alt"))
        if tag not in ("meta", "img", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts += [data.strip()] if data.strip() else []

    @property
    def text(self):
        return "\n".join(self.texts)


def read_page(folder):
    return Page(write_report(folder).read_text())


def test_report_of_a_finished_run_shows_everything_and_fetches_nothing(tmp_path):
    folder = write_run(tmp_path, make_lines(), SUMMARY, CURVE)
    page = read_page(folder)
    for expected in (
        "<b>bold</b> run",  # as text, not as a tag
        "Finished at step 1,000 (all steps done); the metrics are of the state of step 900.",
        "0.83910",
        "0.70123",
        "Bayes (reference)",
        "Logistic regression (reference)",
        "The model goes 83.3% of the way from the test log loss of logistic regression",
        "wukong_jax.models.wukong:build",
        "raw, frappe, rows.csv",
        "12,345,678",
        "1.03 MFLOP per example",
        "201,234 examples/s",
        "1 h 2 min",
        "rowwise_adagrad, learning rate 0.05",
        '"batch_size": 4096',
    ):
        assert expected in page.text, expected
    assert page.open == []
    assert page.tags.count("img") == page.alternatives == 3
    assert len(page.sources) == 6  # light and dark
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not {"script", "link", "iframe", "b"} & set(page.tags)
    for name in ("loss", "auc", "calibration"):
        assert imread(folder / "pictures" / f"{name}.png").shape[0] > 500


def test_report_of_a_run_of_an_earlier_version_lists_the_same(tmp_path):
    older = {"data": {"format": "raw", "path": "rows.csv", "schema": "frappe"}}
    older |= {"optimizer": {"name": "adam", "learning_rate": 0.001}}
    folders = [write_run(tmp_path / "new"), write_run(tmp_path / "old", config=CONFIG | older)]
    pages = [write_report(folder) and read_page(folder).texts for folder in folders]
    for texts in pages:
        assert "raw, frappe, rows.csv" in texts
        assert "adam, learning rate 0.001" in texts


def test_report_of_a_run_under_way_shows_what_there_is(tmp_path):
    page = read_page(write_run(tmp_path))
    assert "This run has not finished. The figures are as of step 0." in page.text
    assert "No evaluation yet." in page.text
    assert page.sources == []
    assert not (tmp_path / "pictures").exists()

    write_run(tmp_path, make_lines(250))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 260, "split": "tr')  # a line being written
    page = read_page(tmp_path)
    assert "The figures are as of step 250." in page.text
    assert "0.80200" in page.text  # the newest validation
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["auc.png", "loss.png"]


def test_report_removes_the_picture_of_a_run_that_started_over(tmp_path):
    write_run(tmp_path, make_lines(), SUMMARY, CURVE)
    write_report(tmp_path)
    (tmp_path / "calibration.json").unlink()
    write_report(tmp_path)
    assert not (tmp_path / "pictures" / "calibration.png").exists()


@pytest.mark.parametrize("missing", [None, float("nan"), float("inf")])
def test_report_copes_with_metrics_that_are_not_defined(tmp_path, missing):
    lines = [*make_lines(300), {"step": 310, "split": "train", "loss": missing}]
    lines.append({"step": 310, "split": "validation", "auc": missing, "log_loss": 0.3})
    curve = [*CURVE, {"predicted": missing, "observed": 0.5, "weight": 1.0}]
    test = {"auc": missing, "log_loss": missing, "normalized_entropy": missing, "calibration": missing}
    page = read_page(write_run(tmp_path, lines, {**SUMMARY, "test": test, "wall_seconds": missing}, curve))
    assert page.text.count("\N{EN DASH}") >= 4
    assert "nan" not in page.text.lower()
    assert load_run_record(tmp_path).series("train", "loss")[0][-1] == 300


def test_report_lists_objectives_domains_and_the_bound_of_a_binned_auc(tmp_path):
    test = {
        **TEST,
        "auc_error_bound": 3.1e-5,
        "click/auc": 0.7,
        "buy/auc": 0.9,
        "de/click/auc": 0.61,
        "de/buy/auc": None,
    }
    page = read_page(write_run(tmp_path, make_lines(), {**SUMMARY, "test": test}, CURVE))
    assert "± 0.00004" in page.text  # rounded up: a bound stays one
    for expected in ("By objective, test rows", "0.90000", "By domain and objective, test rows", "de/click", "0.61000"):
        assert expected in page.text, expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("summary.json", "{", "summary.json, line 1: not JSON"),
        ("summary.json", "[]", "summary.json: holds a list, expected a dict"),
        ("metrics.jsonl", '{"step": 1}\n{"step": 2, "split": "train"}\n', "metrics.jsonl, line 1"),
        ("metrics.jsonl", '{"step": 1, "split"\n{"step": 2, "split": "train"}\n', "metrics.jsonl, line 1"),
        ("config.json", "nonsense", "config.json, line 1: not JSON"),
    ],
)
def test_broken_file_is_named(tmp_path, name, text, message):
    write_run(tmp_path, make_lines(), SUMMARY, CURVE)
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        write_report(tmp_path)


def test_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        write_report(tmp_path)


def make_record(**changes):
    record = {"config": CONFIG, "lines": make_lines(), "summary": SUMMARY, "calibration": CURVE, **changes}
    return RunRecord(**record)


@pytest.mark.parametrize("draw", [draw_loss, draw_auc, draw_calibration])
@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_pictures_depend_on_the_data_and_theme_alone(draw, theme):
    record = make_record()
    assert draw(record, theme) == draw(record, theme)
    assert draw(record, LIGHT) != draw(record, DARK)
    assert draw(make_record(lines=(), calibration=()), theme) is None


@pytest.mark.parametrize(("draw", "metric"), [(draw_loss, "log_loss"), (draw_auc, "auc")])
def test_references_and_test_are_drawn(draw, metric):
    without_references = make_record(summary={**SUMMARY, "references": {}})
    assert draw(make_record(), LIGHT) != draw(without_references, LIGHT)
    without_test = make_record(summary={**SUMMARY, "test": {**TEST, metric: None}})
    assert draw(make_record(), LIGHT) != draw(without_test, LIGHT)


def test_pictures_of_single_points_are_drawn():
    lines = [
        {"step": 1, "split": "train", "loss": 0.5},
        {"step": 1, "split": "validation", "auc": 0.5, "log_loss": 0.5},
    ]
    curve = [{"predicted": 0.0, "observed": 0.0, "weight": 5.0}]
    record = make_record(lines=lines, summary=None, calibration=curve)
    for draw in (draw_loss, draw_auc, draw_calibration):
        assert draw(record, LIGHT).startswith(b"\x89PNG")


def test_record_reads_series_without_gaps():
    lines = [{"step": s, "split": "train", "loss": v} for s, v in ((1, 0.5), (2, None), (3, 0.25), (4, True))]
    assert make_record(lines=lines).series("train", "loss") == ([1, 3], [0.5, 0.25])
    assert np.isfinite(make_record().series("validation", "auc")[1]).all()

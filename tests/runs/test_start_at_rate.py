"""Tests runs whose logits start at the training rows' rates: where the rates come from, resuming, runs without."""

import dataclasses
import json
import types

import numpy as np
import pytest

import wukong_jax
from tests.runs.test_early_stop import LABELS, as_they_are, read_lines, train, write_rows
from tests.runs.test_train_run import make_config, silent
from wukong_jax.data.blocks.label_sums import sum_labels
from wukong_jax.data.blocks.preparation_report import RowStatistics
from wukong_jax.data.blocks.row_blocks import SPLITS
from wukong_jax.errors import UserError
from wukong_jax.reports.run_report import write_report
from wukong_jax.runs import train_run as train_run_module
from wukong_jax.runs.label_rates import load_start_logits, read_label_sums
from wukong_jax.runs.rows import open_run_data
from wukong_jax.training.start_logits import START_LOGITS, compute_start_logits


def rarely(split, labels, domain):
    """About 5 % positives in the first domain, more in the others."""
    random = np.random.default_rng(len(labels))
    return (random.random(labels.shape) < 0.05 * (1 + domain[:, None])).astype(np.float32)


def make_two_objectives(data, **training):
    config = make_config(data, **training)
    return dataclasses.replace(config, embeddings=dataclasses.replace(config.embeddings, width=2, initial_scale=0.0))


@pytest.fixture
def rows(tmp_path):
    return write_rows(tmp_path / "rows", rarely, labels=2, domains=3)


def test_a_report_with_sums_and_a_pass_over_the_rows_give_the_same_start(rows, tmp_path):
    data = open_run_data(make_config(rows).data, tmp_path, silent)
    made = load_start_logits(data)
    positive, observed = np.zeros((3, 2)), np.zeros((3, 2))
    block = data.splits["train"].read(0)
    for labels, domain in zip(block["labels"], block["domain"], strict=True):
        positive[domain] += labels
        observed[domain] += 1
    np.testing.assert_array_equal(sum_labels(data.splits["train"]), np.stack([positive, observed], axis=2))
    assert len(np.unique(made)) == 6
    sums = {
        name: {label: [positive[g, o], observed[g, o]] for o, label in enumerate(LABELS)}
        for g, name in enumerate(data.schema.domain_values)
    }
    reported = dataclasses.replace(data, report={"training_label_sums": sums})
    np.testing.assert_array_equal(load_start_logits(reported), made)
    sums["shop"]["click"] = [30.0, 100.0]  # it is the report that is read, not the rows
    assert load_start_logits(reported)[0, 0] > made[0, 0]


def test_a_report_sums_weights_and_masks_as_the_pass_does(rows, tmp_path):
    data, random = open_run_data(make_config(rows).data, tmp_path, silent), np.random.default_rng(5)
    statistics, blocks = RowStatistics(data.schema), []
    for size in (700, 1, 299):
        mask = random.integers(0, 2, (size, 2)).astype(np.float32)
        columns = dict(data.splits["test"].read(0)) | {
            "labels": mask * random.integers(0, 2, (size, 2)),
            "label_mask": mask,
            "domain": random.integers(0, 3, size).astype(np.int32),
            "weight": random.choice(np.array([0, 0.3, 7], np.float32), size),
            "ids": np.zeros((size, 1), np.int32),
            "dense": np.zeros((size, 0), np.float32),
        }
        statistics.add(SPLITS.index("train"), columns)
        statistics.add(SPLITS.index("test"), columns)
        blocks.append(columns)
    report = json.loads(json.dumps(statistics.report(data.schema, {})))
    source = types.SimpleNamespace(schema=data.schema, num_blocks=3, read=blocks.__getitem__)
    np.testing.assert_allclose(read_label_sums(report, data.schema), sum_labels(source), rtol=1e-12)


@pytest.mark.parametrize(
    "report",
    [
        {},
        {"training_label_sums": {"all": {"click": [1, 2], "buy": [1, 2]}}},  # of rows without domains
        {"training_label_sums": {name: {"click": [1, 2]} for name in ("shop", "news", "mail")}},
        {"training_label_sums": {name: {"click": [3, 2], "buy": [1, 2]} for name in ("shop", "news", "mail")}},
    ],
)
def test_sums_that_do_not_fit_the_rows_are_not_used(rows, tmp_path, report):
    schema = open_run_data(make_config(rows).data, tmp_path, silent).schema
    assert read_label_sums(report, schema) is None


def test_a_run_starts_at_its_rates_and_keeps_them_in_its_checkpoint(rows, tmp_path, monkeypatch):
    config = make_two_objectives(rows, steps=4)
    whole, *_ = train(
        dataclasses.replace(config, training=dataclasses.replace(config.training, steps=6)), tmp_path / "whole"
    )
    train(config, tmp_path / "run")
    opened = wukong_jax.open_run(tmp_path / "run")
    start = compute_start_logits(sum_labels(opened.data.splits["train"]))
    np.testing.assert_array_equal(opened.state.statistics[START_LOGITS], start)
    assert whole["dense_parameters"] == 2  # biases; the start logits are no parameters
    first = read_lines(tmp_path / "run")[0]
    assert first["loss"] < 0.4  # two steps from logits of 0, it is above 0.6

    def refuse(data):
        raise AssertionError("the start logits of a run that goes on are in its checkpoint")

    monkeypatch.setattr(train_run_module, "load_start_logits", refuse)
    again, *_ = train(
        dataclasses.replace(config, training=dataclasses.replace(config.training, steps=6)), tmp_path / "run"
    )
    assert again["test"] == whole["test"]


def test_no_model_at_rare_clicks_is_worse_than_a_constant(tmp_path):
    data = write_rows(tmp_path / "rows", rarely)
    config = make_config(data, steps=2, start_at_rate=True)
    assert train(config, tmp_path / "run")[0]["validation"]["normalized_entropy"] < 1.1
    without = make_config(data, steps=2, start_at_rate=False)
    summary, messages, _ = train(without, tmp_path / "without")
    assert summary["validation"]["normalized_entropy"] > 2
    (note,) = [text for text in messages.texts if "normalized entropy is above 1" in text]
    assert f"({summary['validation']['normalized_entropy']:.4f}): worse than predicting the mean rate" in note
    page = (write_report(tmp_path / "without")).read_text()
    assert "Validation normalized entropy is above 1" in page


def test_a_run_of_an_earlier_version_goes_on_and_opens_without_start_logits(rows, tmp_path):
    old = make_two_objectives(rows, steps=4, start_at_rate=False)
    folder = tmp_path / "run"
    train(old, folder)
    path = folder / "config.json"
    stored = json.loads(path.read_text())
    del stored["training"]["start_at_rate"]
    path.write_text(json.dumps(stored))
    for steps in (6, 8):  # twice, since the first time writes config.json anew
        _, _, said = train(make_two_objectives(rows, steps=steps), folder)
        assert "config.training.start_at_rate stays False, as in the earlier version that started this run" in said
        assert "start_at_rate" not in json.loads(path.read_text())["training"]
    opened = wukong_jax.open_run(folder)
    assert opened.config.training.start_at_rate is False
    assert opened.state.statistics == {}
    whole, *_ = train(make_two_objectives(rows, steps=8, start_at_rate=False), tmp_path / "whole")
    assert opened.evaluate() == whole["test"]


def test_a_run_of_today_refuses_another_start(tmp_path):
    data = write_rows(tmp_path / "rows", as_they_are)
    train(make_config(data, steps=2), tmp_path / "run")
    with pytest.raises(UserError, match=r"training\.start_at_rate = False: the run in .* was started with True"):
        train(make_config(data, steps=4, start_at_rate=False), tmp_path / "run")

"""Tests early stops of whole runs: what they say, which state is scored, how they go on, undefined metrics."""

import dataclasses
import json

import numpy as np
import pytest

import wukong_jax
from tests.runs.test_train_run import make_config
from wukong_jax.config import CHANGEABLE_KEYS
from wukong_jax.data.blocks.row_blocks import BlockWriter
from wukong_jax.errors import UserError
from wukong_jax.reports.result_table import format_results
from wukong_jax.reports.run_report import write_report
from wukong_jax.runs.train_run import train_run
from wukong_jax.schema import CategoricalColumn, LabelColumn, Schema, Source, schema_to_json
from wukong_jax.training.loop import Listener

LABELS, DOMAINS = ("click", "buy"), ("shop", "news", "mail")


class Messages(Listener):
    """Keeps the messages and evaluation lines of a run."""

    def __init__(self):
        self.texts, self.lines = [], []

    def on_message(self, text):
        self.texts.append(text)

    def on_evaluation(self, line, best):
        self.lines.append(line)


def write_rows(folder, positive, labels=1, domains=1, masked=(), seed=0):
    """Writes rows of one id column; `positive(split, labels [rows, O], domain)` may change the labels."""
    schema = Schema(
        "made_up",
        Source("csv"),
        tuple(LabelColumn(name) for name in LABELS[:labels]),
        categorical=(CategoricalColumn("item", "identity", rows=9),),
        domain="where" if domains > 1 else None,
        domain_values=DOMAINS[:domains] if domains > 1 else (),
    )
    random = np.random.default_rng(seed)
    (folder / "blocks").mkdir(parents=True)
    (folder / "schema.json").write_text(schema_to_json(schema))
    for split, rows in (("train", 512), ("validation", 96), ("test", 96)):
        domain = random.integers(0, domains, rows).astype(np.int32)
        made = random.integers(0, 2, (rows, labels)).astype(np.float32)
        observed = np.ones((rows, labels), np.float32) * (split not in masked)
        with BlockWriter(folder, split, schema) as writer:
            writer.append(
                {
                    "dense": np.zeros((rows, 0), np.float32),
                    "ids": random.integers(0, 9, (rows, 1)).astype(np.int32),
                    "labels": positive(split, made, domain) * observed,
                    "label_mask": observed,
                    "domain": domain,
                    "group": np.zeros(rows, np.int32),
                    "timestamp": np.zeros(rows, np.int64),
                    "weight": np.ones(rows, np.float32),
                }
            )
    return {"factory": "blocks", "path": str(folder)}


def as_they_are(split, labels, domain):
    return labels


def without_validation_positives(split, labels, domain):
    return labels * (split != "validation")


def train(config, folder):
    messages, said = Messages(), []
    summary = train_run(config, folder, said.append, [messages])
    return summary, messages, said


def read_lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


NOISE = {"steps": 20, "evaluate_every_steps": 1, "log_every_steps": 1, "checkpoint_every_steps": 100}


def test_an_early_stop_says_so_and_which_state_is_scored(tmp_path):
    data = write_rows(tmp_path / "rows", as_they_are)
    summary, messages, _ = train(make_config(data, early_stop_patience=2, **NOISE), tmp_path / "run")
    (stop,) = [text for text in messages.texts if "stopped early" in text]
    best = summary["best_step"]
    assert summary["step"] == best + 2 < 20  # the labels are noise
    assert stop == (
        f"stopped early at step {best + 2}: no better auc in 2 evaluations (config.training.early_stop_patience = 2); "
        f"the state of step {best}, the best on validation rows, is scored"
    )
    (line,) = [line for line in read_lines(tmp_path / "run") if line["split"] == "test"]
    assert (line["step"], line["scored_step"]) == (best + 2, best)
    assert summary["scored_step"] == best


def test_a_run_goes_on_after_an_early_stop_as_if_it_had_never_stopped(tmp_path, capsys):
    data = write_rows(tmp_path / "rows", as_they_are)
    stopped, _, _ = train(make_config(data, early_stop_patience=2, **NOISE), tmp_path / "run")
    again, messages, _ = train(make_config(data, early_stop_patience=2, **NOISE), tmp_path / "run")
    assert again["step"] == stopped["step"]
    assert any("takes no more steps; to go on, raise" in text for text in messages.texts)
    with_more_steps = NOISE | {"steps": 30}
    assert (
        train(make_config(data, early_stop_patience=2, **with_more_steps), tmp_path / "run")[0]["step"]
        == stopped["step"]
    )
    on, messages, said = train(make_config(data, early_stop_patience=0, **NOISE), tmp_path / "run")
    assert on["step"] == 20
    assert any("early_stop_patience changed from 2 to 0" in text for text in said)
    assert any(
        "with config.training.early_stop_patience = 0, it is going on to step 20" in text for text in messages.texts
    )
    whole, _, _ = train(make_config(data, early_stop_patience=0, **NOISE), tmp_path / "whole")
    timed = ("examples_per_second",)
    kept = [
        [{k: v for k, v in line.items() if k not in timed} for line in read_lines(tmp_path / name)]
        for name in ("run", "whole")
    ]
    assert kept[0] == kept[1]
    assert on["test"] == whole["test"]


def test_a_refused_change_lists_the_keys_that_may_change(tmp_path):
    train(make_config(steps=4), tmp_path / "run")
    with pytest.raises(UserError, match=r"batch_size = 128: .* these may change in a run's folder: ") as error:
        train(make_config(steps=4, batch_size=128), tmp_path / "run")
    assert all(key in str(error.value) for key in CHANGEABLE_KEYS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("setting", [{"early_stop_patience": 2}, {"plateau_factor": 0.5}])
@pytest.mark.parametrize("metric", ["auc", "normalized_entropy"])
def test_early_stopping_by_a_metric_that_is_never_defined_is_refused(tmp_path, setting, metric):
    data = write_rows(tmp_path / "rows", without_validation_positives)
    config = make_config(data, early_stop_metric=metric, **setting)
    with pytest.raises(UserError, match=rf"'{metric}': validation rows have only negative labels.*'log_loss', or set "):
        train(config, tmp_path / "run")
    assert train(make_config(data, early_stop_metric="log_loss", **setting), tmp_path / "other")[0]["best_step"]


def test_early_stopping_without_any_observed_validation_label_is_refused(tmp_path):
    data = write_rows(tmp_path / "rows", as_they_are, masked=("validation",))
    config = make_config(data, early_stop_metric="log_loss", early_stop_patience=2)
    with pytest.raises(UserError, match=r"no observed labels, .* prepare other validation rows"):
        train(config, tmp_path / "run")


def test_an_undefined_metric_is_said_once_and_the_last_state_is_scored(tmp_path, capsys):
    data = write_rows(tmp_path / "rows", without_validation_positives)
    summary, messages, said = train(make_config(data, evaluate_every_steps=2), tmp_path / "run")
    assert sum("only negative labels: auc is not defined there" in text for text in said) == 1
    assert (summary["best_step"], summary["scored_step"], summary["stopped_because"]) == (None, 8, "all steps are done")
    assert "the early-stop metric had no finite value, so the state of the last step, 8, is scored" in messages.texts
    shown = capsys.readouterr().err
    assert "auc not defined" in shown
    assert "nan" not in shown
    validation = [line for line in read_lines(tmp_path / "run") if line["split"] == "validation"]
    assert len(validation) == 4
    assert {line["auc"] for line in validation} == {None}
    opened = wukong_jax.open_run(tmp_path / "run")
    assert np.isnan(opened.evaluate("validation")["auc"])


def test_one_class_in_the_test_rows_is_not_defined_in_table_and_report(tmp_path):
    data = write_rows(tmp_path / "rows", lambda split, labels, domain: labels * (split != "test"))
    summary, *_ = train(make_config(data), tmp_path / "run")
    assert format_results(summary).count("not defined") == 2  # AUC and NE
    assert "nan" not in format_results(summary)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["test"]["auc"] is None
    assert ">not defined<" in write_report(tmp_path / "run").read_text()


def test_a_domain_of_one_class_is_left_out_of_nothing_but_its_own_row(tmp_path):
    def no_news_buys(split, labels, domain):
        return labels * np.stack([np.ones(len(domain)), domain != 1], axis=1).astype(np.float32)

    data = write_rows(tmp_path / "rows", no_news_buys, labels=2, domains=3)
    config = make_config(data)
    config = dataclasses.replace(config, embeddings=dataclasses.replace(config.embeddings, width=2))
    summary, *_ = train(config, tmp_path / "run")
    table = format_results(summary).splitlines()
    start = next(number for number, line in enumerate(table) if line.startswith("domain"))
    assert table[start].split() == ["domain", "rows", "click", "AUC", "click", "NE", "buy", "AUC", "buy", "NE"]
    names = [line.split()[0] for line in table[start + 1 : start + 5]]
    assert names == ["all", *DOMAINS]
    assert [line.count("not defined") for line in table[start + 1 : start + 5]] == [0, 0, 2, 0]
    rows = [int(line.split()[1]) for line in table[start + 1 : start + 5]]
    assert rows[0] == sum(rows[1:]) == 96
    assert f"{summary['test']['mail/buy/auc']:.6f}" in table[start + 4]

"""Tests that a log is scored before it is trained on, that ids have the right rows, and that stops change nothing."""

import dataclasses
import json

import jax
import numpy as np
import polars as pl
import pytest
from scipy.special import expit

from tests.data.raw.test_id_map import DictMap
from tests.online.small_log import DAY, SETTINGS, START, draw_day, make_config, run_log, write_days
from wukong_jax.data.raw.id_map import IdMapRule
from wukong_jax.data.raw.vocabulary import load_vocabulary
from wukong_jax.embeddings.fresh_rows import FreshTable
from wukong_jax.errors import UserError
from wukong_jax.online import train_online as train_online_module
from wukong_jax.online.settings import OnlineSettings
from wukong_jax.online.train_online import LogTraining, train_online
from wukong_jax.reports.run_report import write_report
from wukong_jax.runs.open_run import open_run
from wukong_jax.runs.record import read_metrics
from wukong_jax.runs.train_run import train_run
from wukong_jax.serving import load_scorer
from wukong_jax.serving.export import export_run
from wukong_jax.training.run import build_run
from wukong_jax.training.state import table_key

DAYS = range(5)
TIMES = ("examples_per_second", "wall_seconds")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with a `log` of five days and a `run` on it that never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    run_log(write_days(folder / "log", DAYS), folder / "run")
    return folder


def read_lines(workdir, split=None):
    lines = read_metrics(workdir / "metrics.jsonl")
    kept = [line for line in lines if split in (None, line["split"])]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in kept]


def read_everything(workdir):
    """Returns lines, summary, id maps and the whole state of a run."""
    opened = open_run(workdir)
    state = jax.device_get(opened.state)
    newest = max((workdir / "data").iterdir(), key=lambda folder: int(folder.name))
    maps = {file.name: pl.read_parquet(file).rows() for file in sorted((newest / "id_map").iterdir())}
    summary = json.loads((workdir / "summary.json").read_text(encoding="utf-8"))
    return read_lines(workdir), {k: v for k, v in summary.items() if k not in TIMES}, maps, state


def assert_same_run(workdir, expected):
    (lines, summary, maps, state), wanted = read_everything(workdir), read_everything(expected)
    assert lines == wanted[0]
    assert summary == wanted[1]
    assert maps == wanted[2]
    jax.tree.map(np.testing.assert_array_equal, state, wanted[3])


def test_a_log_that_comes_in_parts_equals_one_that_was_there(whole, tmp_path):
    for days in (range(2), range(2, 3), range(3, 3), range(3, 5)):
        run_log(write_days(tmp_path / "log", days), tmp_path / "run")
    assert_same_run(tmp_path / "run", whole / "run")


def test_a_run_that_is_stopped_anywhere_equals_one_that_was_not(whole, tmp_path, monkeypatch):
    check, calls = LogTraining._check_stop, []

    def stop_sometimes(training):
        calls.append(None)
        if len(calls) in (5, 9, 23):  # within a period, before one, and again
            training._stop.received = 15
        check(training)

    monkeypatch.setattr(LogTraining, "_check_stop", stop_sometimes)
    log, said, codes = write_days(tmp_path / "log", DAYS), [], []
    while len(codes) < 9:
        try:
            run_log(log, tmp_path / "run", say=said.append)
            break
        except SystemExit as stopped:
            codes.append(stopped.code)
    assert codes == [143, 143, 143]
    assert sum("run again to go on" in text for text in said) == 3
    assert_same_run(tmp_path / "run", whole / "run")


def test_a_crash_before_the_checkpoint_changes_nothing(whole, tmp_path, monkeypatch):
    saves = []

    def save_and_crash(*arguments):
        saves.append(arguments)
        real(*arguments)
        if len(saves) == 3:
            raise RuntimeError("crash")

    real = train_online_module.save_period
    monkeypatch.setattr(train_online_module, "save_period", save_and_crash)
    log = write_days(tmp_path / "log", DAYS)
    with pytest.raises(RuntimeError, match="crash"):
        run_log(log, tmp_path / "run")
    run_log(log, tmp_path / "run")
    assert_same_run(tmp_path / "run", whole / "run")


def test_files_may_hold_any_days_and_be_removed_when_they_are_done(whole, tmp_path):
    log = write_days(tmp_path / "log", [])
    pl.concat([draw_day(0), draw_day(1).head(70)]).write_csv(log / "a.csv")
    draw_day(1).tail(80).write_csv(log / "b.csv")
    run_log(log, tmp_path / "run")
    (log / "a.csv").unlink()
    pl.concat([draw_day(day) for day in (2, 3, 4)]).write_csv(log / "c.csv")
    run_log(log, tmp_path / "run")
    assert_same_run(tmp_path / "run", whole / "run")


def test_no_score_depends_on_its_own_labels_or_on_later_rows(whole, tmp_path):
    def change(day, frame):
        return frame if day < 3 else frame.with_columns(click=1 - pl.col("click"), user=pl.col("user"))

    run_log(write_days(tmp_path / "log", DAYS, change), tmp_path / "run")
    lines, expected = (read_lines(folder / "run", "progressive") for folder in (tmp_path, whole))
    assert lines[:3] == expected[:3]
    predicted = [line["calibration"] * line["base_rate"] for line in (lines[3], expected[3])]
    assert predicted[0] == pytest.approx(predicted[1], rel=1e-12)
    assert lines[3]["log_loss"] != expected[3]["log_loss"]
    assert lines[4]["calibration"] * lines[4]["base_rate"] != expected[4]["calibration"] * expected[4]["base_rate"]
    assert "log_loss" not in lines[0]


def test_scores_of_a_day_are_the_predictions_of_the_run_before_it(whole, tmp_path, monkeypatch):
    log = write_days(tmp_path / "log", range(3))
    run_log(log, tmp_path / "run")
    opened = open_run(tmp_path / "run")
    day = draw_day(3)
    expected = opened.predict(day)[:, 0]
    calibrated = {"calibrate": "isotonic", "calibrate_on": "progressive"}
    export_run(opened, tmp_path / "served", **calibrated, say=lambda text: None)
    scorer = load_scorer(tmp_path / "served")
    logits = np.log(expected / (1 - expected))
    np.testing.assert_allclose(scorer.score(day)[:, 0], expit(scorer.calibration[0].apply(logits)), rtol=1e-4)
    scored = np.load(opened.data.directory / "scored_rows.npz")
    corrected = expit(scorer.calibration[0].apply(scored["logits"][:, 0]))
    assert corrected.sum() == pytest.approx(scored["labels"].sum(), rel=0.05)
    np.testing.assert_array_equal(scored["labels"][:, 0], draw_day(2)["click"])
    line = read_lines(whole / "run", "progressive")[3]
    labels = day["click"].to_numpy()
    log_loss = -np.mean(np.where(labels, np.log(expected), np.log1p(-expected)))
    assert line["log_loss"] == pytest.approx(log_loss, rel=1e-6)
    assert line["calibration"] == pytest.approx(expected.sum() / labels.sum(), rel=1e-6)


@pytest.mark.parametrize("evict", ["least_recent", "least_frequent"])
def test_rows_follow_a_dictionary_and_start_anew_when_they_change_hands(evict, tmp_path, monkeypatch):
    """The slow twin reads the files as text, and counts with a dictionary."""
    twin = DictMap(IdMapRule(12, 2, evict, 12))
    tables, ids, train = [], [], LogTraining._train

    def note_before(training, columns):
        tables.append(training._run.exchange.export_tables(training._state.tables))
        ids.append(columns["ids"])
        train(training, columns)
        tables.append(training._run.exchange.export_tables(training._state.tables))

    monkeypatch.setattr(LogTraining, "_train", note_before)
    said = []
    settings = dataclasses.replace(SETTINGS, evict=evict)
    run_log(write_days(tmp_path / "log", DAYS), tmp_path / "run", settings, said.append)
    run = open_run(tmp_path / "run").run
    fresh = FreshTable(run.layout.stacks[0], "item", table_key(run.config.seed))
    some_evicted = False
    for day in DAYS:
        frame = draw_day(day)
        bags = [[part for part in text.split("|") if part][:3] for text in frame["seen"]]
        _, evicted = twin.advance([*frame["item"], *(value for bag in bags for value in bag)], day)
        rows = {value: entry[2] for value, entry in twin.known.items()}
        np.testing.assert_array_equal(ids[day][:, 0], [rows.get(value, 0) for value in frame["item"]])
        expected_bags = [[rows.get(value, 0) for value in bag] + [-1] * (3 - len(bag)) for bag in bags]
        np.testing.assert_array_equal(ids[day][:, 2:], expected_bags)
        if day:
            before, after = tables[2 * day - 1]["item"], tables[2 * day]["item"]
            for name, array in before.items():
                array[evicted] = fresh.make(name, np.array(evicted, int))
                np.testing.assert_array_equal(after[name], array)
            some_evicted |= bool(evicted)
    assert some_evicted
    assert sum("compiled the train step" in text for text in said) <= 2  # once for each share of bags


def test_all_devices_together_equal_one(whole, tmp_path):
    exchange = {"factory": "wukong_jax.embeddings.flat_exchange:build", "options": {"placement": "row_wise"}}
    run_log(whole / "log", tmp_path / "run", mesh={"hosts": 2, "chips": 4}, exchange=exchange)
    lines, expected = (read_lines(folder / "run", "progressive") for folder in (tmp_path, whole))
    for line, wanted in zip(lines, expected, strict=True):
        assert line.pop("period") == wanted["period"]
        numbers = {key: value for key, value in wanted.items() if not isinstance(value, str)}
        assert {key: line[key] for key in numbers} == pytest.approx(numbers, rel=1e-4)  # sums add in another order


def test_hours_and_files_are_periods_too(whole, tmp_path):
    log = write_days(tmp_path / "log", [0], lambda day, frame: frame.head(30))
    summary = run_log(log, tmp_path / "hours", OnlineSettings(period="hour", rows=12))
    hours = [time // 3600 - START // 3600 for time in draw_day(0)["time"].head(30)]
    assert summary["periods"] == len(set(hours)) == 6
    assert summary["last_period"] == f"2023-12-09 {hours[-1]:02d}:00"
    summary = run_log(whole / "log", tmp_path / "files", OnlineSettings(period="file", rows=12, candidates=1))
    lines, expected = (read_lines(folder, "progressive") for folder in (tmp_path / "files", whole / "run"))
    assert [line.pop("period") for line in lines] == [f"{day:02d}.csv" for day in DAYS]
    assert [line | {"period": wanted["period"]} for line, wanted in zip(lines, expected, strict=True)] == expected


def test_waiting_takes_files_that_come_meanwhile(whole, tmp_path, monkeypatch):
    log, sleeps = write_days(tmp_path / "log", range(2)), []

    def sleep(seconds):
        sleeps.append(seconds)
        if len(sleeps) == 1:
            write_days(log, range(2, 5))

    monkeypatch.setattr(train_online_module.time, "sleep", sleep)
    train_online(make_config(log), SETTINGS, tmp_path / "run", lambda text: None, wait=0.2)
    assert sleeps[0] == 0.2
    monkeypatch.undo()
    assert_same_run(tmp_path / "run", whole / "run")


def test_a_run_on_a_log_starts_another_run(whole, tmp_path):
    said = []
    log = write_days(tmp_path / "log", [4])
    train_run(make_config(log, warm_start=str(whole / "run")), str(tmp_path / "run"), said.append)
    (taken,) = [text for text in said if "warm start" in text]
    assert "its latest checkpoint, step 15:" in taken
    new, old = (
        set(load_vocabulary(open_run(folder / "run").data.vocabulary, "item").values) for folder in (tmp_path, whole)
    )
    assert taken.splitlines()[2].split() == ["item", *map(str, (len(new) + 1, len(new & old) + 1, len(new - old)))]


def test_a_report_has_the_periods(whole, tmp_path):
    page = write_report(whole / "run").read_text(encoding="utf-8")
    assert "Progressive" in page
    assert (whole / "run" / "pictures" / "periods.png").exists()
    assert not (whole / "run" / "pictures" / "auc.png").exists()


def test_what_does_not_go_on_is_refused(whole, tmp_path):
    log = write_days(tmp_path / "log", range(1, 3))
    run_log(log, tmp_path / "run")
    with pytest.raises(UserError, match=r"--evict = 'least_frequent': the run in \S+ was started with 'least_recent'"):
        run_log(log, tmp_path / "run", dataclasses.replace(SETTINGS, evict="least_frequent"))
    with pytest.raises(UserError, match=r"config\.seed = 1: the run in"):
        run_log(log, tmp_path / "run", seed=1)
    with pytest.raises(UserError, match="holds a run of train_online"):
        train_run(make_config(log), str(tmp_path / "run"), print)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="holds a run of train; give another folder"):
        run_log(log, tmp_path / "other")
    write_days(log, [0])
    with pytest.raises(UserError, match=r"00\.csv: sorts before 02\.csv, which is done"):
        run_log(log, tmp_path / "run")
    (log / "00.csv").rename(log / "03.csv")
    with pytest.raises(UserError, match=r"03\.csv: has rows of 2023-12-09, but the log is done up to 2023-12-11"):
        run_log(log, tmp_path / "run")


def test_a_workdir_on_a_store_is_refused(whole):
    with pytest.raises(UserError, match="--workdir = 's3://bucket/run': cannot be on an object store; a run on a log"):
        train_online(make_config(whole / "log"), SETTINGS, "s3://bucket/run", lambda text: None)


def test_rows_out_of_order_are_refused(tmp_path):
    log = write_days(tmp_path / "log", [])
    pl.concat([draw_day(1), draw_day(0)]).write_csv(log / "a.csv")
    with pytest.raises(UserError, match=r"a\.csv, line 152: a row of 2023-12-09 after rows of 2023-12-10; sort"):
        run_log(log, tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        (OnlineSettings(), {}, "--rows: how many rows table 'item' has is not given"),
        (OnlineSettings(rows=9, table_rows={"user": 9}), {}, "--table_rows = user: no column that owns a vocabulary"),
        (SETTINGS, {"warm_start": "x"}, "config.warm_start = 'x': is not possible here"),
        (
            SETTINGS,
            {"training": {"batch_size": 64, "steps": 4, "early_stop_patience": 2}},
            "config.training: steps = 4, early_stop_patience = 2: has no effect on a log; set steps=None, early_stop",
        ),
        (
            SETTINGS,
            {"data": {"factory": "raw", "path": "x", "schema": "x", "lanes": 2}},
            "config.data.lanes = 2: every",
        ),
        (SETTINGS, {"data": {"factory": "planted_clicks"}}, "config.data.factory = 'planted_clicks': a log is read"),
    ],
)
def test_settings_without_an_effect_are_refused(settings, changes, message, whole, tmp_path):
    with pytest.raises(UserError) as caught:
        run_log(whole / "log", tmp_path / "run", settings, **changes)
    assert str(caught.value).startswith(message)


def test_a_bad_row_is_told_or_counted(tmp_path):
    log = write_days(tmp_path / "log", range(2))
    with (log / "01.csv").open("a", encoding="utf-8") as file:
        file.write(f"{START + 2 * DAY - 1},cheap,i1,1,,a,0\n{START + 2 * DAY - 1},1,i1,1,,c,0\n")
    with pytest.raises(UserError, match=r"01\.csv, line 152, column 'price' = 'cheap'"):
        run_log(log, tmp_path / "stop")
    data = make_config(log).data
    skip = {"factory": "raw", "path": data.path, "schema": data.schema, "options": {"on_bad_row": "skip"}}
    (log / "01.csv").rename(tmp_path / "01.csv")
    run_log(log, tmp_path / "skip", data=skip)
    (tmp_path / "01.csv").rename(log / "01.csv")
    summary = run_log(log, tmp_path / "skip", data=skip)
    assert run_log(log, tmp_path / "skip", data=skip) == summary
    assert summary["skipped_rows"] == 2
    assert read_lines(tmp_path / "skip", "progressive")[1]["trained_rows"] == 150
    assert build_run(make_config(log), open_run(tmp_path / "skip").schema).schema.domain_values == ("a", "b")

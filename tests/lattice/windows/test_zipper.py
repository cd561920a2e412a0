import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from lattice.windows.attribution_windows import AttributionWindows, draw_windows
from lattice.windows.serving_heads import evaluate_heads
from lattice.windows.window_labels import build_window_labels
from lattice.windows.zipper import ZipperSettings, write_zipped
from tests.end_to_end.run_script import run_script
from wukong_jax.config import DataConfig, build_run_config
from wukong_jax.data.blocks.batch import COLUMN_DTYPES, Batch
from wukong_jax.data.blocks.conversion_log import build_conversion_log, save_conversion_log
from wukong_jax.data.blocks.row_blocks import SPLITS, BlockWriter, open_row_blocks
from wukong_jax.errors import UserError
from wukong_jax.runs.evaluation import put_batch
from wukong_jax.runs.open_run import OpenRun
from wukong_jax.runs.rows import open_run_data
from wukong_jax.schema import CategoricalColumn, LabelColumn, Schema, Source, load_schema, schema_to_json
from wukong_jax.training.run import build_run

HOUR, DAY = 3600, 86400
WINDOWS = AttributionWindows(("1h", "1d", "7d"))
SETTINGS = ZipperSettings(("buy",), WINDOWS)
SCHEMA = Schema(
    name="shop",
    source=Source(format="csv"),
    labels=(LabelColumn("click"), LabelColumn("buy", column="order", threshold=1.0), LabelColumn("like")),
    timestamp="time",
    categorical=(CategoricalColumn("user", rows=200), CategoricalColumn("item", rows=50)),
    domain="surface",
    domain_values=("feed", "search"),
)
HEADS = ["click", "buy@1h", "buy@1d", "buy@7d", "like"]


def write_impressions(directory, splits, schema=SCHEMA):
    """Writes a prepared folder of (user, timestamp, final buy) rows; `like` and domain 1 on every fourth row.

    The objective `like` does not exist in domain 0, `buy` not in the rows whose final label is None.
    """
    (directory / "vocabulary").mkdir(parents=True)
    (directory / "vocabulary" / "words.txt").write_text("kept")
    (directory / "schema.json").write_text(schema_to_json(schema))
    (directory / "report.json").write_text('{"bayes": 1}')
    for split in SPLITS:
        rows = splits.get(split, [])
        columns = {
            name: np.zeros((len(rows), *shape), COLUMN_DTYPES[name]) for name, shape in schema.column_shapes().items()
        }
        for place, (user, timestamp, final) in enumerate(rows):
            search = place % 4 == 3
            columns["ids"][place] = (user, user % 50)
            columns["timestamp"][place] = timestamp
            columns["labels"][place] = (user % 2, final or 0, search)
            columns["label_mask"][place] = (1, final is not None, search)
            columns["domain"][place] = search
        columns["weight"][:] = 1
        with BlockWriter(directory, split, schema, rows_per_block=16) as writer:
            writer.append(columns)
    return directory


def read_split(directory, split):
    blocks = open_row_blocks(directory, split)
    parts = [blocks.read(index) for index in range(blocks.num_blocks)]
    return {name: np.concatenate([part[name] for part in parts]) for name in COLUMN_DTYPES}


def make_log(*conversions, objective=1):
    impression, timestamp = np.array(conversions, np.int64).reshape(-1, 2).T
    return build_conversion_log(impression, np.full(len(impression), objective), timestamp)


# Four impressions and their conversions, by hand: buys after 30 minutes, 2 hours and 3 days, and none.
TRAIN = [(1, 0, 1), (2, HOUR, 1), (3, 2 * HOUR, 1), (4, 3 * HOUR, 0)]
LOG = make_log((0, HOUR // 2), (1, 3 * HOUR), (2, 2 * HOUR + 3 * DAY))
LATER = [(5, 30 * DAY, 1), (6, 30 * DAY, 0), (7, 31 * DAY, None), (8, 31 * DAY, 1)]
LATER_LOG = make_log((0, 30 * DAY + 2 * HOUR), (3, 31 * DAY + 60))


@pytest.mark.parametrize(
    ("policy", "now", "users", "labels"),
    [
        ("1h", 30 * DAY, [1, 2, 3, 4], [1, 0, 0, 0]),
        ("1d", 30 * DAY, [1, 2, 3, 4], [1, 1, 0, 0]),
        ("longest", 30 * DAY, [1, 2, 3, 4], [1, 1, 1, 0]),
        ("1h", 3 * HOUR, [1, 2, 3], [1, 0, 0]),  # the third closes in that very second
        ("1h", 3 * HOUR - 1, [1, 2], [1, 0]),
        ("7d", 7 * DAY + HOUR, [1, 2], [1, 1]),
    ],
)
def test_single_windows_by_hand(tmp_path, policy, now, users, labels):
    write_impressions(tmp_path / "log", {"train": TRAIN})
    settings = ZipperSettings(("buy",), WINDOWS, policy, now)
    report = write_zipped(tmp_path / "log", {"train": LOG}, tmp_path / "out", settings)
    rows = read_split(tmp_path / "out", "train")
    head = {"1h": 1, "1d": 2, "7d": 3, "longest": 3}[policy]
    assert rows["ids"][:, 0].tolist() == users
    assert rows["labels"][:, head].tolist() == labels
    assert rows["label_mask"][:, 1:4].tolist() == [[float(head == column) for column in (1, 2, 3)]] * len(users)
    assert report["zipper"]["policy"] == HEADS[head].partition("@")[2]
    assert report["zipper"]["serving"] == {"buy": HEADS[head]}
    assert report["zipper"]["truth"] == {"buy": "buy@7d"}


def make_many(rows=300, days=20, seed=0):
    random = np.random.default_rng(seed)
    times = np.sort(random.integers(0, days * DAY, rows))
    delays = random.choice([HOUR // 2, 5 * HOUR, 3 * DAY, 9 * DAY, 0], rows)
    exists = random.random(rows) < 0.9
    bought = exists & (random.random(rows) < 0.5)
    final = [int(b) if e else None for b, e in zip(bought & (delays <= 7 * DAY), exists, strict=True)]
    users = random.integers(1, 200, rows)
    impressions = list(zip(users.tolist(), times.tolist(), final, strict=True))
    return impressions, make_log(*[(row, times[row] + delays[row]) for row in np.flatnonzero(bought)])


@pytest.fixture(scope="module")
def zipped(tmp_path_factory):
    """Returns (directory, report, impressions, log) of 300 impressions over 20 days, cut off by default."""
    folder = tmp_path_factory.mktemp("zipper")
    impressions, log = make_many()
    splits = {"train": impressions, "validation": [(1, 20 * DAY, 1)] * 5 + LATER, "test": LATER}
    write_impressions(folder / "log", splits)
    report = write_zipped(folder / "log", {"train": log, "test": LATER_LOG}, folder / "out", SETTINGS)
    return folder / "out", report, impressions, log


def test_training_rows_are_those_emitted_before_the_first_row_to_judge(zipped):
    """Row by row: who was emitted by then, in that order, with the assigned head's label and no other's."""
    directory, report, impressions, log = zipped
    now = report["zipper"]["now"]
    assert now == 20 * DAY  # the first validation row
    users, times = np.array([row[0] for row in impressions]), np.array([row[1] for row in impressions])
    windows = draw_windows(np.column_stack([users, users % 50, times]), WINDOWS)
    bought = dict(zip(log.impression.tolist(), log.timestamp.tolist(), strict=True))
    emitted = sorted((times[i] + WINDOWS.seconds[windows[i]], i) for i in range(300))
    expected = [i for time, i in emitted if time <= now]
    rows = read_split(directory, "train")
    assert len(expected) == len(rows["timestamp"]) < 300
    np.testing.assert_array_equal(rows["ids"][:, 0], users[expected])
    np.testing.assert_array_equal(rows["timestamp"], times[expected])  # the impression's own, not the emission's
    assert (np.diff(rows["timestamp"]) < 0).any()  # the order is another
    for place, i in enumerate(expected):
        exists, search = impressions[i][2] is not None, i % 4 == 3
        head = 1 + windows[i]
        mask = [1.0, 0.0, 0.0, 0.0, float(search)]
        mask[head] = float(exists)
        labels = [float(users[i] % 2), 0.0, 0.0, 0.0, float(search)]
        labels[head] = float(i in bought and bought[i] - times[i] <= WINDOWS.seconds[windows[i]])
        assert rows["label_mask"][place].tolist() == mask
        assert rows["labels"][place].tolist() == labels
        assert rows["domain"][place] == search


def test_rows_to_judge_by_have_all_windows_where_their_conversions_are_known(zipped):
    directory, report, *_ = zipped
    rows = read_split(directory, "test")
    assert rows["ids"][:, 0].tolist() == [5, 6, 7, 8]
    assert rows["labels"][:, 1:4].tolist() == [[0, 1, 1], [0, 0, 0], [0, 0, 0], [1, 1, 1]]
    assert rows["label_mask"].tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]]
    assert report["zipper"]["evaluation_windows"] == {"validation": "longest", "test": "all"}


def test_conversions_are_found_in_every_block_of_the_rows_to_judge_by(tmp_path):
    impressions, log = make_many(rows=100, seed=1)  # seven blocks
    write_impressions(tmp_path / "log", {"train": TRAIN, "validation": impressions})
    settings = ZipperSettings(("buy",), WINDOWS, now=30 * DAY)
    write_zipped(tmp_path / "log", {"train": LOG, "validation": log}, tmp_path / "out", settings)
    bought = dict(zip(log.impression.tolist(), log.timestamp.tolist(), strict=True))
    rows = read_split(tmp_path / "out", "validation")
    for i, (user, time, final) in enumerate(impressions):
        assert (rows["ids"][i, 0], rows["timestamp"][i]) == (user, time)
        delay = bought[i] - time if i in bought else np.inf
        assert rows["labels"][i, 1:4].tolist() == [delay <= seconds for seconds in WINDOWS.seconds]
        assert rows["label_mask"][i, 1:4].tolist() == [final is not None] * 3


def test_without_their_conversions_they_have_the_longest_windows_label(zipped):
    directory, *_ = zipped
    rows = {name: array[5:] for name, array in read_split(directory, "validation").items()}
    assert rows["labels"][:, 1:4].tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert rows["label_mask"][:, 1:4].tolist() == [[0, 0, 1], [0, 0, 1], [0, 0, 0], [0, 0, 1]]
    assert rows["labels"][:, 0].tolist() == [1, 0, 1, 0]


def test_the_schema_has_a_head_for_each_window_and_all_else_as_it_was(zipped):
    directory, *_ = zipped
    schema = load_schema(directory / "schema.json")
    assert [label.name for label in schema.labels] == HEADS
    assert {(label.source_column, label.threshold) for label in schema.labels[1:4]} == {("order", 1.0)}
    assert (schema.categorical, schema.domain_values) == (SCHEMA.categorical, SCHEMA.domain_values)
    assert (directory / "vocabulary" / "words.txt").read_text() == "kept"


def test_the_report_counts_what_each_policy_emits(zipped):
    directory, report, impressions, _ = zipped
    assert report == json.loads((directory / "report.json").read_text())
    assert report["impressions"] == {"bayes": 1}
    described = report["zipper"]
    assert described["windows"] == {"1h": HOUR, "1d": DAY, "7d": 7 * DAY}
    assert described["serving"] == described["truth"] == {"buy": "buy@7d"}
    policies = described["policies"]
    assert list(policies) == ["zipper", "1h", "1d", "7d"]
    assert report["rows"]["train"] == policies["zipper"]["emitted"] == 300 - policies["zipper"]["not_yet_emitted"]
    by_window = policies["zipper"]["by_window"]
    rows = read_split(directory, "train")
    for head, name in enumerate(WINDOWS.names, start=1):
        assert by_window[name]["positives"] == [int(rows["labels"][:, head].sum())]
    for name, seconds in described["windows"].items():
        assert policies[name]["mean_age_at_emission"] == seconds
        assert policies[name]["emitted"] == sum(time + seconds <= described["now"] for _, time, _ in impressions)
    assert HOUR < policies["zipper"]["mean_age_at_emission"] < 7 * DAY


def test_the_same_logs_give_the_same_rows(zipped, tmp_path):
    directory, report, impressions, log = zipped
    splits = {"train": impressions, "validation": [(1, 20 * DAY, 1)] * 5 + LATER, "test": LATER}
    write_impressions(tmp_path / "log", splits)
    assert write_zipped(tmp_path / "log", {"train": log, "test": LATER_LOG}, tmp_path / "out", SETTINGS) == report
    for split in SPLITS:
        for path in (directory / "blocks").glob(f"{split}*.array_record"):
            assert path.read_bytes() == (tmp_path / "out" / "blocks" / path.name).read_bytes()


@pytest.mark.parametrize("last_rows", [1, 40, 150])
def test_the_last_rows_are_the_end_of_all_rows(zipped, tmp_path, last_rows):
    directory, report, *_ = zipped
    _, _, impressions, log = zipped
    write_impressions(tmp_path / "log", {"train": impressions, "test": LATER})
    settings = dataclasses.replace(SETTINGS, last_rows=last_rows, now=report["zipper"]["now"])
    made = write_zipped(tmp_path / "log", {"train": log}, tmp_path / "out", settings)
    assert made["zipper"]["training_rows"] == last_rows < report["zipper"]["training_rows"]
    whole, rows = read_split(directory, "train"), read_split(tmp_path / "out", "train")
    for name, array in rows.items():
        np.testing.assert_array_equal(array, whole[name][-last_rows:])


def test_a_head_is_judged_by_the_label_it_is_to_foretell(zipped):
    """A slow twin: the short window's logits of the test rows against the longest window's labels."""
    directory = zipped[0]
    run, _ = build_model(directory)
    data = open_run_data(run.config.data, Path("unused"), say=lambda text: None)
    opened = OpenRun(run, data, run.init_state())
    judged = evaluate_heads(opened, "test", {"buy@1h": "buy@7d", "click": "click"})
    rows = read_split(directory, "test")
    padded = {name: np.repeat(array[:1], 64, axis=0) for name, array in rows.items()}
    count = len(rows["weight"])
    for name, array in rows.items():
        padded[name][:count] = array
    logits = np.asarray(opened.predict_batch(put_batch(Batch(**padded, extras={}), run.mesh)))[:count]
    for head, truth, name in ((1, 3, "buy@1h"), (0, 0, "click")):
        own = rows["label_mask"][:, truth] > 0
        probability = 1 / (1 + np.exp(-logits[own, head].astype(np.float64)))
        label = rows["labels"][own, truth]
        loss = -np.mean(label * np.log(probability) + (1 - label) * np.log1p(-probability))
        assert judged[name]["log_loss"] == pytest.approx(loss, rel=1e-6)
        assert judged[name]["rows"] == own.sum()
    with pytest.raises(UserError, match="head 'buy': no such objective; there are click, buy@1h"):
        evaluate_heads(opened, "test", {"buy": "buy@7d"})


def test_several_delayed_objectives_share_an_impressions_window(tmp_path):
    """`like` is delayed too: it exists in every fourth row alone, and its own conversions decide."""
    write_impressions(tmp_path / "log", {"train": [*TRAIN, *[(9, 4 * HOUR, 0)] * 4]})
    times = np.concatenate([LOG.timestamp, [3 * HOUR + 5, 4 * HOUR + 2 * DAY]])
    log = build_conversion_log(np.append(LOG.impression, [3, 7]), np.append(LOG.objective, [2, 2]), times)
    settings = ZipperSettings(("like", "buy"), WINDOWS, "1d", 30 * DAY)
    report = write_zipped(tmp_path / "log", {"train": log}, tmp_path / "out", settings)
    rows = read_split(tmp_path / "out", "train")
    names = [label.name for label in load_schema(tmp_path / "out" / "schema.json").labels]
    assert names == ["click", "buy@1h", "buy@1d", "buy@7d", "like@1h", "like@1d", "like@7d"]
    assert rows["labels"][:, names.index("buy@1d")].tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    assert rows["labels"][:, names.index("like@1d")].tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
    assert rows["label_mask"][:, names.index("like@1d")].tolist() == [0, 0, 0, 1, 0, 0, 0, 1]
    assert rows["label_mask"][:, [names.index(f"like@{name}") for name in ("1h", "7d")]].sum() == 0
    assert report["zipper"]["policies"]["1d"]["by_window"]["1d"]["positives"] == [1, 2]  # like, buy


def test_only_the_assigned_head_learns(zipped):
    """Logistic regression has weights of its own for each head, down to the tables: none of another head's moves.

    With sgd a weight moves by its gradient alone.
    """
    run, batch = build_model(zipped[0])
    step, state = run.jit_train_step(), run.init_state()
    before = snapshot(run, state)
    for window in (1, 2, 3, None):
        weight = np.ones(64) if window is None else batch.label_mask[:, window]
        state, _ = step(state, put_batch(batch._replace(weight=weight.astype(np.float32)), run.mesh))
        after = snapshot(run, state)
        heads = {1, 2, 3} if window is None else {window}
        for name, array in after.items():
            moved = (array != before[name]).reshape(-1, 5).any(axis=0)
            assert set(np.flatnonzero(moved)) == {0, 4} | heads, name
        before = after


def build_model(directory):
    """Returns (run, last 64 training rows, judged by all windows) of a zipped directory, as the trainer opens it."""
    optimizer = {"learning_rate": 0.1}
    config = build_run_config(
        {
            "name": "zipped",
            "data": {"format": "blocks", "path": str(directory)},
            "embeddings": {"width": 5, "optimizer": {"kind": "sgd", **optimizer}},
            "model": {"factory": "wukong_jax.models.logistic_regression:build", "options": {}},
            "optimizer": {"name": "sgd", **optimizer},
            "training": {"batch_size": 64, "evaluation_batch_size": 64, "steps": 1},
        }
    )
    data = open_run_data(config.data, Path("unused"), say=lambda text: None)
    columns = {name: array[-64:] for name, array in read_split(directory, "train").items()}
    return build_run(config, data.schema), Batch(**columns, extras={})


def snapshot(run, state):
    """Returns every trained array by name: dense weights, and tables in their logical form."""
    flat = {
        jax.tree_util.keystr(path): np.array(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)
    }
    tables = run.exchange.export_tables(state.tables)
    return flat | {table: np.array(arrays["rows"]) for table, arrays in tables.items()}


@pytest.mark.parametrize(
    ("settings", "splits", "log", "message"),
    [
        (SETTINGS, {"train": TRAIN}, LOG, "now = None: there is no validation or test row"),
        (ZipperSettings(("buy",), WINDOWS, now=60), {}, LOG, "now = 60: policy 'zipper' has emitted nothing"),
        (
            ZipperSettings(("buy",), WINDOWS, "1h", DAY, last_rows=5),
            {},
            LOG,
            "last_rows = 5: policy '1h' has emitted 4",
        ),
        (ZipperSettings(("order",), WINDOWS), {}, LOG, "objective = 'order': not a label .* click, buy, like"),
        (ZipperSettings(("buy", "buy"), WINDOWS), {}, LOG, "objectives = buy,buy: name each"),
        (ZipperSettings(("buy",), WINDOWS, "2h"), {}, LOG, "policy = '2h': not one of"),
        (ZipperSettings(("buy",), WINDOWS, signature=("ad",)), {}, LOG, "no id column 'ad'; there are user, item"),
        (SETTINGS, {}, make_log((99, 5)), "conversions of split 'train': a conversion of impression 99"),
        (SETTINGS, {}, make_log((1, 5), objective=2), "conversions of label 2 of the schema, which is not zipped"),
        (SETTINGS, {"train": TRAIN[::-1]}, make_log(), r"split 'train', row 1: timestamp = 7200 is before"),
    ],
)
def test_what_cannot_be_zipped_is_refused_and_leaves_nothing(tmp_path, settings, splits, log, message):
    splits = splits or {"train": TRAIN}
    if settings.now is None and "None" not in message:
        splits = {**splits, "validation": LATER}
    write_impressions(tmp_path / "log", splits)
    with pytest.raises(UserError, match=message):
        write_zipped(tmp_path / "log", {"train": log}, tmp_path / "out", settings)
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_a_log_that_fails_while_rows_are_written_leaves_nothing(tmp_path):
    write_impressions(tmp_path / "log", {"train": TRAIN, "test": LATER})
    logs = {"train": LOG, "test": make_log((1, 5))}
    with pytest.raises(UserError, match="conversions of split 'test': impression 1 converts before it was shown"):
        write_zipped(tmp_path / "log", logs, tmp_path / "out", SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_folders_and_logs_that_do_not_serve_are_refused(tmp_path):
    write_impressions(tmp_path / "log", {"train": TRAIN, "validation": LATER})
    with pytest.raises(UserError, match=r"log: exists already"):
        write_zipped(tmp_path / "log", {"train": LOG}, tmp_path / "log", SETTINGS)
    with pytest.raises(UserError, match="conversions: none of the training rows"):
        write_zipped(tmp_path / "log", {"test": LOG}, tmp_path / "out", SETTINGS)
    (tmp_path / "log" / "report.json").write_text("{")
    with pytest.raises(UserError, match=r"report\.json: not JSON"):
        write_zipped(tmp_path / "log", {"train": LOG}, tmp_path / "out", SETTINGS)
    untimed = Schema(SCHEMA.name, SCHEMA.source, SCHEMA.labels, categorical=SCHEMA.categorical)
    write_impressions(tmp_path / "untimed", {"train": TRAIN}, untimed)
    with pytest.raises(UserError, match=r"untimed: the schema has no timestamp column"):
        write_zipped(tmp_path / "untimed", {"train": LOG}, tmp_path / "out", SETTINGS)


def test_a_head_whose_name_is_taken_is_refused():
    labels = (LabelColumn("buy"), LabelColumn("buy@1d"))
    schema = Schema(SCHEMA.name, SCHEMA.source, labels, categorical=SCHEMA.categorical)
    with pytest.raises(UserError, match="objective = 'buy': the schema has a label 'buy@1d' already"):
        build_window_labels(schema, ("buy",), WINDOWS.names, WINDOWS.seconds)


def test_the_script_zips_and_says_what_each_policy_emits(tmp_path):
    write_impressions(tmp_path / "log", {"train": TRAIN, "test": LATER})
    save_conversion_log(LOG, tmp_path / "train.npz")
    save_conversion_log(LATER_LOG, tmp_path / "test.npz")
    flags = [f"--impressions={tmp_path / 'log'}", f"--conversions={tmp_path / 'train.npz'}", "--objective=buy"]
    more = [f"--test_conversions={tmp_path / 'test.npz'}", "--windows=1h,1d", "--shares=0.9,0.1", "--policy=1h"]
    code, out, err = run_script("zip_windows.py", *flags, *more, f"--output={tmp_path / 'out'}")
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0] == f"cut-off {30 * DAY}"
    assert lines[2].split() == ["1h", "4", "0", "1.00", "h", "1"]
    assert lines[4].split() == ["1d", "4", "0", "24.00", "h", "2"]
    assert lines[-1].endswith("policy 1h, serving buy by buy@1h")
    assert json.loads((tmp_path / "out" / "report.json").read_text())["zipper"]["shares"] == [0.9, 0.1]
    config = DataConfig("blocks", path=str(tmp_path / "out"))
    assert open_run_data(config, tmp_path, say=lambda text: None).splits["train"].rows == 4


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--impressions=none", "--conversions=none.npz", "--objective=buy", "--output=out"), 1, "none.npz"),
        (("--help",), 0, ""),
    ],
)
def test_the_script_fails_in_one_line(flags, code, words):
    actual, out, err = run_script("zip_windows.py", *flags)
    assert actual == code, err
    assert words in err
    assert "Traceback" not in err
    if code == 1:
        assert len(err.strip().splitlines()) == 1
    assert ("attribution windows" in out) == (code == 0)

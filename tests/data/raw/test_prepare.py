"""Tests preparation: against a slow twin with any chunk size, ids of new rows, and that no partial output is left."""

import csv
import dataclasses
import datetime
import json
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import polars as pl
import pytest

from tests.repository import ROOT as REPOSITORY
from wukong_jax.data.blocks.row_blocks import SPLITS, open_row_blocks
from wukong_jax.data.raw import prepare
from wukong_jax.data.raw.new_rows import read_encoded_rows
from wukong_jax.data.raw.prepare import prepare_data
from wukong_jax.data.raw.stable_hash import hash_texts, hash_uniform
from wukong_jax.errors import UserError
from wukong_jax.schema import (
    CategoricalColumn,
    DenseColumn,
    LabelColumn,
    Schema,
    Source,
    Split,
    load_schema,
    schema_to_json,
)

SCHEMA = Schema(
    name="mixed",
    source=Source(format="csv"),
    split=Split(by="random", validation_fraction=0.2, test_fraction=0.2, seed=5),
    labels=(LabelColumn("click"), LabelColumn("liked", column="stars", threshold=4.0)),
    dense=(DenseColumn("age", transform="standardise", missing_value=30.0), DenseColumn("spend", transform="log1p")),
    categorical=(
        CategoricalColumn("item", min_count=2),
        CategoricalColumn("city", encoding="hash", rows=13, salt=4),
        CategoricalColumn("slot", encoding="identity", rows=5),
        CategoricalColumn("tags", separator="|", max_length=2),
    ),
    sequences=(CategoricalColumn("history", separator=" ", max_length=3, vocabulary_of="item"),),
    domain="site",
    timestamp="time",
    group="user",
    weight="importance",
)
FIELDS = ["user", "item", "city", "slot", "tags", "history", "age", "spend", "stars", "click", "site", "time"]
FIELDS += ["importance"]


def draw_rows(count, seed=0):
    rng = np.random.default_rng(seed)
    items = [f"item,{i}" for i in range(40)]  # the comma makes the file quote them

    def some(values, most):
        return [values[i] for i in rng.integers(0, len(values), rng.integers(0, most + 1))]

    start = datetime.datetime(2024, 1, 1)
    return [
        {
            "user": f"u{rng.integers(20)}",
            "item": items[min(int(rng.exponential(8)), 39)],
            "city": ["", "Rome", "Köln"][rng.integers(3)],
            "slot": str(rng.integers(0, 6)),
            "tags": "|".join(some(["a", "b", "c", "d"], 4)),
            "history": " ".join(some(items[:30], 6)),
            "age": "" if rng.random() < 0.2 else str(rng.integers(18, 80)),
            "spend": f"{rng.normal(5, 10):.2f}",
            "stars": "" if rng.random() < 0.3 else str(rng.integers(1, 6)),
            "click": str(rng.integers(0, 2)),
            "site": ["web", "app"][rng.integers(2)],
            "time": str(start + datetime.timedelta(minutes=int(rng.integers(0, 10_000)))),
            "importance": str(rng.integers(1, 4) / 2),
        }
        for _ in range(count)
    ]


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def parts(row):
    return {
        "tags": [part for part in row["tags"].split("|") if part][:2],
        "history": [part for part in row["history"].split(" ") if part][-3:],
    }


def assign_twin(rows):
    uniform = hash_uniform(np.arange(len(rows)), 5)
    return ["test" if u < 0.2 else "validation" if u < 0.4 else "train" for u in uniform]


def vocabularies_twin(rows, splits):
    counts = {"item": Counter(), "tags": Counter()}
    for row, split in zip(rows, splits, strict=True):
        if split == "train":
            counts["item"].update([row["item"], *parts(row)["history"]])
            counts["tags"].update(parts(row)["tags"])
    ids = {}
    for name, min_count in (("item", 2), ("tags", 1)):
        known = [value for value in counts[name] if counts[name][value] >= min_count]
        known.sort(key=lambda value: (-counts[name][value], value.encode()))
        ids[name] = {value: index + 1 for index, value in enumerate(known)}
    return ids


def columns_twin(rows, all_rows, splits):
    """Computes the expected block contents of `rows`, one row at a time."""
    ids = vocabularies_twin(all_rows, splits)
    ages = [float(r["age"] or 30) for r, split in zip(all_rows, splits, strict=True) if split == "train"]
    columns = {name: [] for name in ("dense", "ids", "labels", "label_mask", "domain", "timestamp", "weight")}
    for row in rows:
        age = (float(row["age"] or 30) - np.mean(ages)) / np.std(ages)
        columns["dense"].append([age, np.log1p(max(float(row["spend"]), 0))])
        slot = int(row["slot"])
        bag = [ids["tags"].get(v, 0) for v in parts(row)["tags"]]
        sequence = [ids["item"].get(v, 0) for v in parts(row)["history"]]
        columns["ids"].append(
            [
                ids["item"].get(row["item"], 0),
                1 + int(hash_texts(pl.Series([row["city"]]), 4)[0]) % 12,
                slot + 1 if slot < 4 else 0,
                *[*bag, -1, -1][:2],
                *[*sequence, -1, -1, -1][:3],
            ]
        )
        stars = row["stars"]
        columns["labels"].append([int(row["click"]), int(bool(stars) and int(stars) >= 4)])
        columns["label_mask"].append([1, int(bool(stars))])
        columns["domain"].append(["app", "web"].index(row["site"]))
        moment = datetime.datetime.fromisoformat(row["time"]).replace(tzinfo=datetime.UTC)
        columns["timestamp"].append(int(moment.timestamp()))
        columns["weight"].append(float(row["importance"]))
    return columns


def read_split(directory, split):
    blocks = open_row_blocks(directory, split)
    read = [blocks.read(i) for i in range(blocks.num_blocks)]
    return {name: np.concatenate([block[name] for block in read]) for name in read[0]}


def assert_columns(got, twin):
    for name, values in twin.items():
        if name == "dense":
            # float32 of values near 1: 1e-6 is 8 units in the last place.
            np.testing.assert_allclose(got[name], values, rtol=1e-6, atol=1e-6)
        else:
            np.testing.assert_array_equal(got[name], values, err_msg=name)


@pytest.mark.parametrize("chunk_bytes", [200, 10_000, 1 << 20])
def test_prepared_data_equals_twin(tmp_path, chunk_bytes):
    rows = draw_rows(600)
    files = [write_csv(tmp_path / "a.csv", rows[:450]), write_csv(tmp_path / "b.csv", rows[450:])]
    report = prepare_data(SCHEMA, files, tmp_path / "out", chunk_bytes=chunk_bytes, rows_per_block=64)
    splits = assign_twin(rows)
    for split in SPLITS:
        mine = [row for row, s in zip(rows, splits, strict=True) if s == split]
        got = read_split(tmp_path / "out", split)
        assert_columns(got, columns_twin(mine, rows, splits))
        groups = {(row["user"], group) for row, group in zip(mine, got["group"].tolist(), strict=True)}
        assert len(groups) == len({user for user, _ in groups}) == len({group for _, group in groups})
        assert report["rows"][split] == len(mine)
    resolved = load_schema(tmp_path / "out" / "schema.json")
    assert resolved.domain_values == ("app", "web")
    twin = vocabularies_twin(rows, splits)
    expected_rows = {"item": len(twin["item"]) + 1, "city": 13, "slot": 5, "tags": len(twin["tags"]) + 1}
    assert resolved.vocabulary_rows() == report["vocabulary_rows"] == expected_rows
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "blocks",
        "report.json",
        "schema.json",
        "vocabulary",
    ]
    assert not (tmp_path / "out.writing").exists()


def test_report_counts_what_is_there(tmp_path):
    rows = draw_rows(300)
    report = prepare_data(SCHEMA, [write_csv(tmp_path / "a.csv", rows)], tmp_path / "out")
    assert report == json.loads((tmp_path / "out" / "report.json").read_text())
    test = read_split(tmp_path / "out", "test")
    assert report["label_rate"]["click"]["test"] == pytest.approx(test["labels"][:, 0].mean(), abs=1e-6)
    observed = test["label_mask"][:, 1].sum()
    assert report["label_rate"]["liked"]["test"] == pytest.approx(test["labels"][:, 1].sum() / observed, abs=1e-6)
    assert report["unknown_share"]["item"]["test"] == pytest.approx((test["ids"][:, 0] == 0).mean(), abs=1e-6)
    assert report["bags"]["tags"]["fill"]["test"] == pytest.approx((test["ids"][:, 3:5] >= 0).mean(), abs=1e-6)
    lost = sum(max(len([part for part in row["tags"].split("|") if part]) - 2, 0) for row in rows)
    assert report["bags"]["tags"]["truncated_values"] == lost > 0
    assert report["domain_rows"]["web"]["test"] == (test["domain"] == 1).sum()
    assert report["peak_memory_bytes"] > 1 << 20


def test_new_rows_get_the_ids_of_prepared_ones(tmp_path):
    rows = draw_rows(300)
    file = write_csv(tmp_path / "a.csv", rows)
    prepare_data(dataclasses.replace(SCHEMA, split=Split(by="order")), [file], tmp_path / "out")
    resolved = load_schema(tmp_path / "out" / "schema.json")
    read = list(read_encoded_rows(resolved, tmp_path / "out" / "vocabulary", file, True, chunk_bytes=3000))
    assert len(read) > 3
    stored = [read_split(tmp_path / "out", split) for split in SPLITS]
    for name in stored[0]:
        np.testing.assert_array_equal(
            np.concatenate([columns[name] for columns in read]),
            np.concatenate([columns[name] for columns in stored]),
            err_msg=name,
        )


def test_rows_to_score_need_no_targets(tmp_path):
    rows = draw_rows(50)
    file = write_csv(tmp_path / "a.csv", rows)
    prepare_data(SCHEMA, [file], tmp_path / "out")
    resolved = load_schema(tmp_path / "out" / "schema.json")
    kept = [name for name in FIELDS if name not in ("click", "stars", "time", "user", "importance")]
    bare = tmp_path / "bare.csv"
    pl.read_csv(file, infer_schema=False).select(kept).write_csv(bare)
    (full,) = read_encoded_rows(resolved, tmp_path / "out" / "vocabulary", file, True)
    (scored,) = read_encoded_rows(resolved, tmp_path / "out" / "vocabulary", bare, False)
    np.testing.assert_array_equal(scored["ids"], full["ids"])
    np.testing.assert_array_equal(scored["dense"], full["dense"])
    assert not scored["label_mask"].any()
    assert (scored["weight"] == 1).all()
    with pytest.raises(UserError, match=r"bare\.csv: no column 'click'"):
        next(read_encoded_rows(resolved, tmp_path / "out" / "vocabulary", bare, True))


def test_parquet_equals_csv(tmp_path):
    rows = draw_rows(200)
    file = write_csv(tmp_path / "a.csv", rows)
    typed = pl.read_csv(file, try_parse_dates=True).with_columns(
        pl.col("tags").fill_null("").str.split("|"), pl.col("history").fill_null("").str.split(" ")
    )
    assert typed["time"].dtype.is_temporal()
    assert typed["age"].dtype.is_integer()
    typed.write_parquet(tmp_path / "a.parquet")
    prepare_data(SCHEMA, [file], tmp_path / "csv")
    parquet = dataclasses.replace(SCHEMA, source=Source(format="parquet"))
    prepare_data(parquet, [tmp_path / "a.parquet"], tmp_path / "parquet", chunk_bytes=1000)
    for split in SPLITS:
        expected, got = read_split(tmp_path / "csv", split), read_split(tmp_path / "parquet", split)
        for name in expected:
            # One pass of means over other chunks: float32 rounding.
            np.testing.assert_allclose(got[name], expected[name], rtol=1e-6, atol=1e-6, err_msg=name)


def test_time_split_uses_the_timestamp(tmp_path):
    file = write_csv(tmp_path / "a.csv", draw_rows(400))
    prepare_data(dataclasses.replace(SCHEMA, split=Split(by="time")), [file], tmp_path / "out", chunk_bytes=2000)
    train, validation, test = (read_split(tmp_path / "out", split)["timestamp"] for split in SPLITS)
    assert train.max() < validation.min() <= validation.max() < test.min()
    assert abs(len(test) - 40) <= 3  # rows of one minute stay together


BAD = {
    "label": ("click", "maybe", "column 'click' = 'maybe': expected 0 or 1 (or -1 for 0)"),
    "number": ("spend", "much", "column 'spend' = 'much': expected a number"),
    "identity": ("slot", "3rd", "column 'slot' = '3rd': expected an integer"),
    "time": ("time", "soon", "column 'time' = 'soon': expected seconds since 1970"),
    "weight": ("importance", "-1", "column 'importance' = '-1': expected a number of 0 or above"),
}


@pytest.mark.parametrize(("column", "value", "message"), BAD.values(), ids=BAD)
def test_bad_value_is_named_or_skipped(tmp_path, column, value, message):
    rows = draw_rows(100)
    clean = [dict(row) for row in rows[:40] + rows[41:]]
    rows[40][column] = value
    file = write_csv(tmp_path / "a.csv", rows)
    for chunk_bytes in (500, 1 << 20):
        with pytest.raises(UserError) as error:
            prepare_data(SCHEMA, [file], tmp_path / "out", chunk_bytes=chunk_bytes)
        assert str(error.value).startswith(f"{file}, line 42, {message}")
        assert sorted(os.listdir(tmp_path)) == ["a.csv"]
    report = prepare_data(SCHEMA, [file], tmp_path / "out", on_bad_row="skip", chunk_bytes=500)
    assert report["skipped_rows"] == 1
    assert report["skipped_examples"][0].startswith(f"{file}, line 42, ")
    prepare_data(SCHEMA, [write_csv(tmp_path / "clean.csv", clean)], tmp_path / "clean")
    for split in SPLITS:
        expected, got = read_split(tmp_path / "clean", split), read_split(tmp_path / "out", split)
        for name in expected:
            np.testing.assert_array_equal(got[name], expected[name], err_msg=name)


def test_domain_that_training_does_not_have_is_named_or_skipped(tmp_path):
    rows = draw_rows(100)
    rows[-1]["site"] = "tv"
    schema = dataclasses.replace(SCHEMA, split=Split(by="order"))
    file = write_csv(tmp_path / "a.csv", rows)
    with pytest.raises(UserError, match=r"a\.csv, line 101, column 'site' = 'tv': expected a domain of training rows"):
        prepare_data(schema, [file], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    report = prepare_data(schema, [file], tmp_path / "out", on_bad_row="skip")
    assert report["rows"] == {"train": 80, "validation": 10, "test": 9}
    assert report["skipped_rows"] == 1


def test_output_is_never_half_written_nor_overwritten_unasked(tmp_path):
    file = write_csv(tmp_path / "a.csv", draw_rows(50))
    output = tmp_path / "out"
    (tmp_path / "out.writing").mkdir()  # what a killed run leaves
    (tmp_path / "out.writing" / "junk").write_text("x")
    prepare_data(SCHEMA, [file], output)
    assert not (output / "junk").exists()
    before = (output / "report.json").read_text()
    with pytest.raises(UserError, match=r"out: exists; .*--overwrite"):
        prepare_data(SCHEMA, [file], output)
    broken = dataclasses.replace(SCHEMA, dense=(DenseColumn("nothing"),))
    with pytest.raises(UserError, match="no column 'nothing'"):
        prepare_data(broken, [file], output, overwrite=True)
    assert (output / "report.json").read_text() == before
    prepare_data(SCHEMA, [write_csv(tmp_path / "b.csv", draw_rows(60))], output, overwrite=True)
    assert sum(json.loads((output / "report.json").read_text())["rows"].values()) == 60
    with pytest.raises(UserError, match="not a prepared data set"):
        prepare_data(SCHEMA, [file], tmp_path, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["a.csv", "b.csv", "out"]


@pytest.mark.parametrize("place", ["provisional_rows.np.save", "vocabulary.pl.DataFrame.write_parquet"])
def test_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, place):
    def fail(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"wukong_jax.data.raw.{place}", fail)
    with pytest.raises(UserError, match=r"out\.writing.*cannot write.*No space left.*free space") as error:
        prepare_data(SCHEMA, [write_csv(tmp_path / "a.csv", draw_rows(50))], tmp_path / "out")
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == ["a.csv"]


def test_killed_run_leaves_no_output(tmp_path, monkeypatch):
    """What a kill leaves is a folder of another name: the rename is the last thing that happens."""
    seen = []
    write_text = prepare._write_text

    def record(path, text):
        seen.append(output.exists())
        write_text(path, text)

    monkeypatch.setattr(prepare, "_write_text", record)
    output = tmp_path / "out"
    prepare_data(SCHEMA, [write_csv(tmp_path / "a.csv", draw_rows(50))], output)
    assert seen == [False, False]


def test_no_training_rows_is_refused(tmp_path):
    file = write_csv(tmp_path / "a.csv", draw_rows(3))
    schema = dataclasses.replace(SCHEMA, split=Split(by="order", validation_fraction=0.0, test_fraction=0.99))
    with pytest.raises(UserError, match="leaves no training rows of 3"):
        prepare_data(schema, [file], tmp_path / "out")


def run_script(*arguments):
    command = [sys.executable, str(REPOSITORY / "scripts" / "prepare_data.py"), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_script_prepares_refuses_and_explains(tmp_path):
    file = write_csv(tmp_path / "a.csv", draw_rows(200))
    (tmp_path / "mixed.json").write_text(schema_to_json(SCHEMA))
    common = [f"--schema={tmp_path / 'mixed.json'}", f"--input={file}"]
    done = run_script(*common, f"--output={tmp_path / 'out'}", "--split=order", "--test_fraction=0.25", "--min_count=3")
    assert (done.returncode, done.stderr) == (0, "")
    assert "train" in done.stdout
    resolved = load_schema(tmp_path / "out" / "schema.json")
    assert resolved.split == Split(by="order", test_fraction=0.25)
    assert [column.min_count for column in resolved.id_columns] == [3, 1, 1, 3, 1]
    unseen = dataclasses.replace(SCHEMA, labels=(LabelColumn("click", positive=("1", "yes")), *SCHEMA.labels[1:]))
    (tmp_path / "unseen.json").write_text(schema_to_json(unseen))
    warned = run_script(f"--schema={tmp_path / 'unseen.json'}", f"--input={file}", f"--output={tmp_path / 'unseen'}")
    line = "label 'click': no row has the `positive` value 'yes'; see how the raw file writes it"
    assert (warned.returncode, warned.stderr) == (0, f"warning: {line}\n")
    assert json.loads((tmp_path / "unseen" / "report.json").read_text())["warnings"] == [line]
    again = run_script(*common, f"--output={tmp_path / 'out'}")
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr == f"error: output {tmp_path / 'out'}: exists; choose another folder or pass --overwrite\n"
    usage = run_script("--schema=criteo")
    assert usage.returncode == 2
    foreign = run_script(*common, f"--output={tmp_path / 'new'}", "--split=order", "--seed=3")
    assert foreign.returncode == 1
    assert foreign.stderr == "error: --seed = 3: a split by 'order' has no such option\n"
    unknown = run_script("--schema=criteoo", f"--input={file}", f"--output={tmp_path / 'new'}")
    assert unknown.returncode == 1
    assert "schema = 'criteoo': not a built-in one (avazu, " in unknown.stderr

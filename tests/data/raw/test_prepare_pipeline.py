"""Tests the stages of preparation that run at the same time: same output as one after the other, and clean failures."""

import dataclasses
import json
import threading
import time
from concurrent.futures import Future

import numpy as np
import pytest

from wukong_jax.data.blocks import record_files, row_blocks
from wukong_jax.data.raw import prepare, provisional_rows, row_encoder
from wukong_jax.data.raw.prepare import prepare_data
from wukong_jax.errors import UserError
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source, Split

COLUMNS = ("click", "day", "site", "price", "item", "tags")
VOCABULARIES = Schema(
    name="vocabularies",
    source=Source(format="csv", separator="\t", header=False, columns=COLUMNS),
    labels=(LabelColumn("click"),),
    dense=(DenseColumn("price", transform="standardise"),),
    categorical=(CategoricalColumn("item", min_count=2), CategoricalColumn("tags", separator="|", max_length=2)),
    domain="site",
    timestamp="day",
)
HASHED = dataclasses.replace(
    VOCABULARIES,
    name="hashed",
    dense=(DenseColumn("price", transform="log1p"),),
    categorical=(
        CategoricalColumn("item", "hash", rows=97),
        CategoricalColumn("tags", "hash", rows=31, separator="|", max_length=2),
    ),
    domain=None,
)
SPLITS = [
    Split(by="random", validation_fraction=0.2, test_fraction=0.2, seed=3),
    Split(by="order", validation_fraction=0.2, test_fraction=0.2),
    Split(by="time", validation_fraction=0.2, test_fraction=0.2),
    Split(by="file", train="a*", validation="b*", test="c*"),
]


class AtOnce:
    """An executor without threads: each call is made when it is submitted."""

    def __init__(self, workers=1):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def submit(self, call, *arguments):
        done = Future()
        try:
            done.set_result(call(*arguments))
        except Exception as error:
            done.set_exception(error)
        return done

    def map(self, call, items):
        return map(call, items)

    def shutdown(self, **options):
        pass


def write_files(folder, rows, bad_every=0):
    """Writes three files; some rows have another number of columns, which the reader finds, or a label that is none."""
    rng = np.random.default_rng(7)
    folder.mkdir()
    for name in "abc":
        lines = []
        for row in range(rows):
            item = f"{rng.integers(40):08x}" if rng.random() < 0.9 else ("", "x", "3.0", "123456.0")[rng.integers(4)]
            site = ("web", "app")[rng.integers(2)]
            tags = "|".join(f"t{tag}" for tag in rng.integers(0, 5, rng.integers(4)))
            values = [rng.integers(2), 1_700_000_000 + rng.integers(9000), site, round(rng.normal(5, 2), 2), item, tags]
            if bad_every and row % bad_every == 3:
                values = values[:-1] if row // bad_every % 2 else ["maybe", *values[1:]]
            lines.append("\t".join(str(value) for value in values))
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def read_output(folder):
    """Returns the content of every file, without what differs between two equal runs."""
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".checked.json")
    }
    report = json.loads(files.pop("report.json"))
    return files, {name: value for name, value in report.items() if name not in ("seconds", "peak_memory_bytes")}


@pytest.mark.parametrize("split", SPLITS, ids=lambda split: split.by)
@pytest.mark.parametrize("schema", [VOCABULARIES, HASHED], ids=lambda schema: schema.name)
def test_stages_at_the_same_time_prepare_what_they_do_one_by_one(tmp_path, monkeypatch, schema, split):
    schema = dataclasses.replace(schema, split=split)
    files = write_files(tmp_path / "raw", 700, bad_every=25)
    options = {"on_bad_row": "skip", "chunk_bytes": 3000, "rows_per_block": 64}
    encode, delays = row_encoder.RowEncoder.encode, np.random.default_rng(1)

    def encode_late(*arguments):
        time.sleep(delays.random() * 0.004)  # so that another stage is ahead each time
        return encode(*arguments)

    with monkeypatch.context() as late:
        late.setattr(row_encoder.RowEncoder, "encode", encode_late)
        prepare_data(schema, [files], tmp_path / "pipelined", **options)
    monkeypatch.setattr(prepare, "prefetch", lambda items: (item for item in items))
    monkeypatch.setattr(prepare, "ThreadPoolExecutor", AtOnce)
    monkeypatch.setattr(record_files, "ThreadPoolExecutor", AtOnce)
    prepare_data(schema, [files], tmp_path / "one_by_one", **options)
    content, report = read_output(tmp_path / "pipelined")
    assert (content, report) == read_output(tmp_path / "one_by_one")
    assert report["skipped_rows"] == 3 * 28
    assert len(content["blocks/train-00000.array_record"]) > 0
    assert not (tmp_path / "pipelined" / "provisional").exists()


STAGES = {
    "read": (prepare, "read_raw_rows"),
    "encode": (row_encoder.RowEncoder, "encode"),
    "store": (provisional_rows.ProvisionalRows, "append"),
    "finish": (prepare, "finish_rows"),
    "form a block": (row_blocks, "encode_block"),
    "write a block": (record_files.RecordFiles, "_write"),
}


@pytest.mark.parametrize(
    ("schema", "stage"),
    [
        (schema, stage)
        for schema in (VOCABULARIES, HASHED)
        for stage in STAGES
        if not (schema is HASHED and stage == "store")  # rows of hashed columns are not stored
    ],
    ids=lambda value: getattr(value, "name", value),
)
@pytest.mark.parametrize("error", [UserError("disk: full; free space"), KeyboardInterrupt()], ids=["error", "Ctrl-C"])
def test_a_failure_in_any_stage_ends_all_and_leaves_nothing(tmp_path, monkeypatch, schema, stage, error):
    schema = dataclasses.replace(schema, split=SPLITS[0])
    files = write_files(tmp_path / "raw", 400)
    place, name = STAGES[stage]
    call, calls = getattr(place, name), []

    def fail_later(*arguments, **options):
        calls.append(threading.current_thread())
        if len(calls) == 3:
            raise error
        return call(*arguments, **options)

    monkeypatch.setattr(place, name, fail_later)
    before = set(threading.enumerate())
    with pytest.raises(type(error)) as raised:
        prepare_data(schema, [files], tmp_path / "out", chunk_bytes=3000, rows_per_block=64)
    assert raised.value is error
    assert set(threading.enumerate()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]


@pytest.mark.parametrize(
    ("schema", "line"),
    [(VOCABULARIES, "read"), (VOCABULARIES, "wrote"), (HASHED, "wrote")],
    ids=lambda value: getattr(value, "name", value),
)
def test_interrupting_the_main_thread_ends_all_and_leaves_nothing(tmp_path, schema, line):
    schema = dataclasses.replace(schema, split=SPLITS[0])
    files = write_files(tmp_path / "raw", 400)

    def interrupt(text):
        if text.startswith(f"{line} ") and not text.startswith(f"{line} 0"):
            raise KeyboardInterrupt

    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        prepare_data(schema, [files], tmp_path / "out", chunk_bytes=3000, rows_per_block=64, progress=interrupt)
    assert set(threading.enumerate()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]


def test_bad_rows_of_reader_and_encoder_are_listed_in_the_order_of_the_file(tmp_path):
    schema = dataclasses.replace(VOCABULARIES, split=SPLITS[0], domain=None)
    files = write_files(tmp_path / "raw", 300, bad_every=40)
    report = prepare_data(schema, [files / "a.tsv"], tmp_path / "out", on_bad_row="skip", chunk_bytes=1)
    lines = [int(example.split("line ")[1].split(",")[0]) for example in report["skipped_examples"]]
    assert lines == [row + 1 for row in range(3, 300, 40)]

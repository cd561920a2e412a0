"""Tests that a run folder that is damaged or made to harm is refused in one line: a seeded fuzzer over its files.

Each trial changes one file of a finished run (bits, lengths, JSON values of other types and absurd sizes), opens the
run, evaluates it and predicts rows. The results are those of the whole run, or there is a UserError of one line.
"""

import json
import logging
import random
import resource
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runs.test_train_run import silent
from wukong_jax.config import build_run_config
from wukong_jax.errors import UserError
from wukong_jax.runs.open_run import open_run
from wukong_jax.runs.record import load_run_record
from wukong_jax.runs.train_run import train_run
from wukong_jax.training.compiled_programs import keep_programs_in

FILES = {  # a file is changed in one trial of `weight`
    "config.json": 2,
    "data/schema.json": 2,
    "data/blocks/test*": 2,
    "data/blocks/*.json": 1,
    "data/vocabulary/*": 1,
    "checkpoints/best/*/*": 2,
    "checkpoints/best/*/*/*": 2,
    "checkpoints/best/*/*/d/*": 3,
}
ABSURD = (10**15, 2**31, 2**63, 10**30, -1, 0, -(10**15), 1e308, float("nan"), float("inf"), 3.5, True, None)
OTHER_TYPES = ("", [], {}, "x" * 2000, [[[[[]]]]], "os:system", "../../etc/passwd")
MEMORY_BYTES = 1_500_000_000  # that all trials may add to the peak


def train_small(folder: Path) -> None:
    """Trains a run with every kind of file and column, and writes rows.csv beside its folder."""
    draw = np.random.default_rng(0)
    lines = ["click,x,c,bag,dom"]
    for _ in range(400):
        bag = "|".join(f"t{k}" for k in draw.integers(0, 9, draw.integers(0, 4)))
        lines.append(f"{draw.integers(2)},{draw.normal():.3f},v{draw.integers(12)},{bag},d{draw.integers(2)}")
    (folder.parent / "raw.csv").write_text("\n".join(lines) + "\n")
    (folder.parent / "rows.csv").write_text("\n".join(lines[:40]) + "\n")
    schema = {
        "name": "made_up",
        "source": {"format": "csv"},
        "labels": [{"name": "click"}],
        "dense": [{"name": "x", "transform": "standardise"}],
        "categorical": [{"name": "c"}, {"name": "bag", "separator": "|", "max_length": 4}],
        "domain": "dom",
    }
    (folder.parent / "schema.json").write_text(json.dumps(schema))
    config = {
        "name": "small",
        "data": {
            "factory": "raw",
            "path": str(folder.parent / "raw.csv"),
            "schema": str(folder.parent / "schema.json"),
        },
        "embeddings": {"width": 2, "optimizer": {"kind": "rowwise_adagrad", "learning_rate": 0.1}},
        "model": {"factory": "wukong_jax.models.fm:build"},
        "training": {"batch_size": 32, "evaluation_batch_size": 64, "epochs": 1, "checkpoint_every_steps": 100},
        "mesh": {"chips": 1},
    }
    train_run(build_run_config(config), folder, silent)


def score(folder: Path) -> tuple[dict[str, float], np.ndarray]:
    opened = open_run(folder)
    return opened.evaluate("test"), opened.predict(folder.parent / "rows.csv")


def change_json(document: Any, draw: random.Random) -> str:
    """Changes one value anywhere in a JSON document; returns what."""
    places: list[tuple[Any, Any]] = []

    def collect(node: Any) -> None:
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in items:
            places.append((node, key))
            collect(value)

    collect(document)
    holder, key = draw.choice(places)
    how = draw.choice(["drop", "wrap", "rename", "grow", "absurd", "absurd", "type", "type"])
    if how == "drop":
        del holder[key]
    elif how == "wrap":
        holder[key] = [holder[key]]
    elif how == "rename" and isinstance(holder, dict):
        holder["unexpected"] = holder.pop(key)
    elif how == "grow" and isinstance(holder[key], int):
        holder[key] = holder[key] * 10 ** draw.randint(3, 15)
    else:
        holder[key] = draw.choice(OTHER_TYPES if how == "type" else ABSURD)
    return f"{key}: {how}"


def change_bytes(content: bytearray, draw: random.Random) -> tuple[bytes, str]:
    """Changes the bytes of a file; returns them and what."""
    place = draw.randrange(len(content) + 1)
    how = draw.choice(["flip", "flip", "flip", "cut", "zero", "twice", "empty", "noise", "insert", "nested"])
    if how == "flip":
        for _ in range(draw.choice((1, 1, 3, 10)) if content else 0):
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    elif how == "cut":
        content = content[:place]
    elif how == "zero":
        content[place : place + 64] = bytes(len(content[place : place + 64]))
    elif how == "insert":
        content[place:place] = draw.randbytes(draw.randint(1, 8))
    else:
        content = {"twice": content * 2, "empty": b"", "noise": draw.randbytes(300), "nested": b"[" * 100_000}[how]
    return bytes(content), how


def change_file(file: Path, draw: random.Random) -> str:
    """Changes a file and returns what was done."""
    if file.suffix == ".json" and draw.random() < 0.75:
        document = json.loads(file.read_text())
        what = change_json(document, draw)
        file.write_text(json.dumps(document))
    else:
        changed, what = change_bytes(bytearray(file.read_bytes()), draw)
        file.write_bytes(changed)
    return what


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run and its results; compiled programs are kept, since each trial opens the same run again."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    logging.disable(logging.CRITICAL)
    with keep_programs_in(folder.parent / "compiled"):
        train_small(folder)
        yield folder, score(folder)
    logging.disable(logging.NOTSET)


def run_trial(whole, folder: Path, seed: int) -> str:
    """Makes a trial; returns "same" or "refused"."""
    draw = random.Random(seed)
    source, (metrics, scores) = whole
    shutil.copytree(source, folder)
    shutil.copy(source.parent / "rows.csv", folder.parent / "rows.csv")
    pattern = draw.choices(list(FILES), list(FILES.values()))[0]
    file = draw.choice(sorted(path for path in folder.glob(pattern) if path.is_file()))
    what = f"seed {seed}, {file.relative_to(folder)}, {change_file(file, draw)}"
    refused = None
    try:
        found, predicted = score(folder)
    except UserError as error:
        refused = str(error)
    except BaseException as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    finally:
        shutil.rmtree(folder)
    if refused is not None:
        assert "\n" not in refused, what
        assert 10 < len(refused) < 3000, what  # a message may repeat a text of 2,000 characters
        return "refused"
    np.testing.assert_equal(found, metrics, err_msg=what)
    np.testing.assert_array_equal(predicted, scores, err_msg=what)
    return "same"


def run_trials(whole, tmp_path, seeds) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ends = [run_trial(whole, tmp_path / "run", seed) for seed in seeds]
    assert {"same", "refused"} == set(ends)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MEMORY_BYTES


def test_a_damaged_run_is_refused_in_one_line_or_scores_the_same(whole, tmp_path):
    run_trials(whole, tmp_path, range(1000, 1080))


@pytest.mark.slow
def test_many_damaged_runs_are_refused_in_one_line_or_score_the_same(whole, tmp_path):
    run_trials(whole, tmp_path, range(2000, 2400))


@pytest.mark.parametrize(
    ("name", "key", "value", "words"),
    [
        ("config.json", "embeddings.width", 10**15, "does not fit|not readable"),
        ("config.json", "embeddings.width", 10**30, "does not fit 64 bits"),
        ("config.json", "embeddings.optimizer.learning_rate", float("nan"), "must be|not a number"),
        ("data/schema.json", "categorical.0.rows", 10**12, "at most 2147483647 rows"),
        ("data/schema.json", "dense.0.standard_deviation", None, "has no mean or deviation"),
        ("data/blocks/test.json", "blocks_per_file.0", 10**15, "do not fit"),
        ("data/blocks/test.json", "rows", 10**15, "do not fit"),
        ("data/blocks/test.json", "files.0", "../../raw.csv", "name of a file elsewhere"),
    ],
)
def test_a_size_is_checked_before_anything_is_allocated(whole, tmp_path, name, key, value, words):
    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
    document = json.loads((folder / name).read_text())
    node, (*path, last) = document, [int(part) if part.isdigit() else part for part in key.split(".")]
    for part in path:
        node = node[part]
    node[last] = value
    (folder / name).write_text(json.dumps(document))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=words):
        open_run(folder)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 200_000_000


def test_an_index_that_counts_more_blocks_than_its_file_has_bytes_is_refused(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
    file = folder / "data" / "blocks" / "test.json"
    absurd = {"rows": 10**15, "rows_per_block": 1, "blocks_per_file": [10**15], "digests": []}
    file.write_text(json.dumps(json.loads(file.read_text()) | absurd))
    with pytest.raises(UserError, match="cannot hold 1000000000000000 blocks"):
        open_run(folder)


@pytest.mark.parametrize("name", ["config.json", "summary.json", "calibration.json", "metrics.jsonl"])
@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 100_000, b'{"step": 1e400}\n{}\n', b"9" * 9999 + b"\n\n", b""])
def test_a_damaged_record_is_one_line(whole, tmp_path, name, content):
    for kept in ("config.json", "summary.json", "calibration.json", "metrics.jsonl"):
        shutil.copy(whole[0] / kept, tmp_path / kept)
    (tmp_path / name).write_bytes(content)
    refused = str(tmp_path / name)
    try:
        load_run_record(tmp_path)
    except UserError as error:
        refused = str(error)
    assert str(tmp_path / name) in refused
    assert "\n" not in refused

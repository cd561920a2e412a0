"""Tests that a step in parts of rows with similar lengths is the step with padded sequences, and how it plans parts."""

import functools
import json

import chex
import jax
import numpy as np
import pytest

from wukong_jax.config import build_run_config
from wukong_jax.data.blocks.batch import Batch
from wukong_jax.data.blocks.row_blocks import BlockWriter
from wukong_jax.errors import UserError
from wukong_jax.runs.evaluation import put_batch
from wukong_jax.runs.train_run import train_run
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source, schema_to_json
from wukong_jax.training import length_parts
from wukong_jax.training.length_parts import build_length_parts, sort_by_length
from wukong_jax.training.run import Run, build_run

B, LONGEST, SEEN = 64, 40, 10
FLAT = "wukong_jax.embeddings.flat_exchange:build"
SCHEMA = Schema(
    "made_up",
    Source("csv"),
    labels=(LabelColumn("click"), LabelColumn("like")),
    dense=(DenseColumn("age"),),
    categorical=(CategoricalColumn("item", rows=40, encoding="identity"),),
    sequences=(
        CategoricalColumn("past", rows=50, encoding="identity", separator="|", max_length=LONGEST),
        CategoricalColumn("seen", rows=30, encoding="identity", separator="|", max_length=SEEN),
    ),
)
LATTICE = {
    "layers": 1,
    "sequences": ("past", "seen"),
    "fusion": {"fmb_tokens": 3, "lcb_tokens": 2, "rank": 4, "hidden": (12,)},
    "head_hidden": 5,
}


def describe_config(hosts: int = 1, chips: int = 1, sequences: str | None = "by_length", **options: object) -> dict:
    fields = {name: {"pooling": "none"} for name in ("past", "seen")}
    optimizer = {"kind": "sgd", "learning_rate": 0.05}
    reader = {"factory": "tests.training.sequence_reader:build", "options": {"sequences": ("past", "seen"), **options}}
    lattice = {"factory": "lattice.network:build", "options": LATTICE | options}
    return {
        "name": "lengths",
        "data": {"factory": "blocks", "path": "unused"},
        "embeddings": {"width": 8, "optimizer": optimizer, "fields": fields, "sequences": sequences},
        "model": reader if options.keys() <= {"dropout"} else lattice,
        # plain gradient steps show a gradient of the wrong size, where Adam would hide it
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
        "training": {"batch_size": B, "evaluation_batch_size": B, "steps": 4, "microbatch": 8 // min(8, hosts * chips)},
        "mesh": {"hosts": hosts, "chips": chips},
    }


def make_run(*mesh: int, parts: dict | None = None, sequences: str | None = "by_length", **options: object) -> Run:
    return build_run(build_run_config(describe_config(*mesh, sequences=sequences, **options) | (parts or {})), SCHEMA)


def draw_columns(seed: int, rows: int = B) -> dict[str, np.ndarray]:
    """Draws rows with a long tail of lengths, of which some are empty, absent events in between, and padding."""
    random = np.random.default_rng(seed)
    pieces = [random.integers(0, 40, (rows, 1))]
    for longest in (LONGEST, SEEN):
        lengths = np.minimum(random.zipf(1.6, rows) - 1, longest)
        drawn = random.integers(-1, 30, (rows, longest))
        pieces.append(np.where(np.arange(longest) < lengths[:, None], drawn, -1))
    weight = random.integers(1, 3, rows).astype(np.float32)
    weight[-3:] = 0
    return {
        "dense": random.normal(size=(rows, 1)).astype(np.float32),
        "ids": np.concatenate(pieces, axis=1).astype(np.int32),
        "labels": random.integers(0, 2, (rows, 2)).astype(np.float32),
        "label_mask": (random.random((rows, 2)) < 0.8).astype(np.float32),
        "domain": np.zeros(rows, np.int32),
        "group": np.zeros(rows, np.int32),
        "timestamp": np.zeros(rows, np.int64),
        "weight": weight,
    }


def take_steps(run: Run, steps: int = 2):
    step, state, metrics = run.jit_train_step(), run.init_state(), []
    for seed in range(steps):
        state, made = step(state, put_batch(Batch(**draw_columns(seed), extras={}), run.mesh))
        metrics.append({name: made[name] for name in ("loss_sum", "weight_sum", "gradient_norm", "finite")})
    assert step._cache_size() == 1
    tables = run.exchange.export_tables(state.tables)
    return jax.device_get((metrics, state.params, {name: arrays["rows"] for name, arrays in tables.items()}))


@functools.cache
def take_padded_steps():
    run = make_run(sequences="padded", dropout=0.4)
    assert run.length_parts is None
    return take_steps(run)


MIXED = {"placement": "table_wise", "tables": {"past": "row_wise", "item": "replicated"}}


@pytest.mark.parametrize(
    ("mesh", "parts"),
    [
        ((1, 1), {}),
        ((2, 4), {}),
        ((2, 4), {"exchange": {"factory": FLAT, "options": MIXED}}),
        ((2, 4), {"mesh": {"hosts": 2, "chips": 4, "fsdp": "all", "fsdp_min_size": 1}}),
    ],
    ids=["one device", "eight devices", "placed tables", "split weights"],
)
def test_a_step_by_length_is_the_padded_step_on_one_device(mesh, parts, monkeypatch):
    monkeypatch.setattr(length_parts, "SHARES", (1 / 8, 2 / 5, 1.0))  # fewer copies to compile
    by_length = make_run(*mesh, parts=parts, dropout=0.4)
    assert by_length.length_parts is not None
    # Sums over rows, parts, events and devices add in another order.
    chex.assert_trees_all_close(take_steps(by_length), take_padded_steps(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("lengths", ["tail", "empty", "full", "one long row"])
def test_every_row_is_computed_once_at_a_length_that_holds_it(lengths, devices):
    run, columns = make_run(1, devices), draw_columns(3)
    ids = columns["ids"]
    if lengths != "tail":
        ids[:, 1:] = 1 if lengths == "full" else -1
    if lengths == "one long row":
        ids[5, LONGEST] = 2  # the last event alone
    parts = build_length_parts([(1, 1 + LONGEST), (1 + LONGEST, 1 + LONGEST + SEEN)], B // devices, 2, 8, 5, True)
    assert parts.shares == (1 / 16, 1 / 6, 2 / 5, 1.0)
    batch, numbers, plan = sort_by_length(run.exchange, parts, Batch(**columns, extras={}), np.arange(B))
    used = [
        [max([j + 1 for j, i in enumerate(row[a:b]) if i >= 0], default=0) for a, b in parts.sequences] for row in ids
    ]
    np.testing.assert_array_equal(batch.ids, ids[np.asarray(numbers)])
    found = [[] for _ in range(B)]
    places = 0
    for share, rows, end, turns in zip(parts.shares, parts.rows, plan.ends, plan.turns, strict=True):
        for turn in range(int(turns)):
            last = int(end) - (int(turns) - 1 - turn) * rows
            places += devices * rows * parts.count_places(share)
            for place in range(max(last - rows, 0), last):
                for device in range(devices):
                    found[int(numbers[device * (B // devices) + place])].append(share)
    assert all(len(own) == 1 for own in found)
    for (share,), own in zip(found, used, strict=True):
        assert all(length <= np.ceil(share * (b - a)) for length, (a, b) in zip(own, parts.sequences, strict=True))
    np.testing.assert_allclose(plan.fill, np.sum(used) / places, rtol=1e-6)
    np.testing.assert_allclose(plan.places, places / (B * (LONGEST + SEEN)), rtol=1e-6)
    if lengths == "one long row":
        assert places < 0.4 * B * (LONGEST + SEEN)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"norm": "layer"}, "leave out absent events"),
        ({"float8": "row"}, "leave out absent events"),
        ({"training": {"batch_size": B, "evaluation_batch_size": B, "steps": 1, "microbatch": 0}}, "microbatch = 0"),
    ],
)
def test_sequences_that_must_stay_padded_are_refused_or_padded(change, said):
    options = {} if "training" in change else change
    parts = change if "training" in change else {}
    with pytest.raises(UserError, match=said):
        make_run(parts=parts, **options)
    assert make_run(sequences=None, parts=parts, **options).length_parts is None


def test_by_default_only_long_sequences_go_by_length(monkeypatch):
    assert make_run(sequences=None).length_parts is not None
    assert make_run(sequences=None, layers=1).length_parts is not None  # of a Lattice network
    monkeypatch.setattr("wukong_jax.training.run.LEAST_TOKENS", LONGEST + 1)
    assert make_run(sequences=None).length_parts is None


def test_a_run_logs_its_fill_and_goes_on_where_it_stopped(tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "schema.json").write_text(schema_to_json(SCHEMA), encoding="utf-8")
    for index, split in enumerate(("train", "validation", "test")):
        with BlockWriter(folder, split, SCHEMA) as writer:
            writer.append(draw_columns(index, 4 * B if split == "train" else B))
    data, lines = {"factory": "blocks", "path": str(folder)}, {}
    for name, starts in {"whole": (4,), "stopped": (2, 4)}.items():
        for steps in starts:
            config = describe_config()
            config |= {"data": data, "training": config["training"] | {"steps": steps, "log_every_steps": 1}}
            train_run(build_run_config(config), tmp_path / name, lambda text: None)
        text = (tmp_path / name / "metrics.jsonl").read_text(encoding="utf-8")
        lines[name] = [json.loads(line) for line in text.splitlines()]
        lines[name] = [line for line in lines[name] if line["split"] == "train"]
        for line in lines[name]:
            del line["examples_per_second"]
    assert lines["whole"] == lines["stopped"]
    for line in lines["whole"]:
        assert 0 < line["sequence_fill"] <= 1
        assert line["sequence_places"] < 0.6

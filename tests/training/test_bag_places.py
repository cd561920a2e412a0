"""Tests the choice of places for bags, and that steps and whole runs with it are those with padded bags."""

import json

import chex
import jax
import numpy as np
import pytest

from wukong_jax.config import build_run_config
from wukong_jax.data.blocks.batch import BagShare, Batch
from wukong_jax.data.blocks.row_blocks import BlockWriter
from wukong_jax.embeddings.exchange import Exchange, ReplicatedExchange
from wukong_jax.embeddings.flat_bags import SHARES
from wukong_jax.runs.evaluation import put_batch
from wukong_jax.runs.train_run import train_run
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source, schema_to_json
from wukong_jax.training import bag_places
from wukong_jax.training.bag_places import LEAST_SLOTS, BagUse
from wukong_jax.training.run import Run, build_run

B, LONGEST = 64, 16
FLAT = "wukong_jax.embeddings.flat_exchange:build"
SCHEMA = Schema(
    "made_up",
    Source("csv"),
    labels=(LabelColumn("click"),),
    dense=(DenseColumn("age"),),
    categorical=(
        CategoricalColumn("item", rows=40, encoding="identity"),
        CategoricalColumn("tags", rows=50, encoding="identity", separator="|", max_length=LONGEST),
    ),
)


@pytest.fixture(autouse=True)
def small_batches_count(monkeypatch):
    monkeypatch.setattr(bag_places, "LEAST_SLOTS", 1)


def describe_config(hosts: int = 1, chips: int = 1, **parts: object) -> dict:
    return {
        "name": "bags",
        "data": {"factory": "blocks", "path": "unused"},
        "embeddings": {"width": 8, "optimizer": {"kind": "sgd", "learning_rate": 0.05}},
        "model": {"factory": "wukong_jax.models.dlrm:build", "options": {"top_hidden": (8,), "bottom_hidden": (8,)}},
        "optimizer": {"factory": "sgd", "learning_rate": 0.1},
        "training": {"batch_size": B, "evaluation_batch_size": B, "steps": 8},
        "mesh": {"hosts": hosts, "chips": chips},
    } | parts


def make_run(hosts: int = 1, chips: int = 1, **parts: object) -> Run:
    return build_run(build_run_config(describe_config(hosts, chips, **parts)), SCHEMA)


def draw_columns(lengths: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    random, rows = np.random.default_rng(seed), len(lengths)
    tags = np.where(np.arange(LONGEST) < lengths[:, None], random.integers(0, 50, (rows, LONGEST)), -1)
    return {
        "dense": random.normal(size=(rows, 1)).astype(np.float32),
        "ids": np.concatenate([random.integers(0, 40, (rows, 1)), tags], axis=1).astype(np.int32),
        "labels": random.integers(0, 2, (rows, 1)).astype(np.float32),
        "label_mask": np.ones((rows, 1), np.float32),
        "domain": np.zeros(rows, np.int32),
        "group": np.zeros(rows, np.int32),
        "timestamp": np.zeros(rows, np.int64),
        "weight": np.ones(rows, np.float32),
    }


def make_batch(lengths: np.ndarray, seed: int = 0) -> Batch:
    return Batch(**draw_columns(lengths, seed), extras={})


def test_the_fullest_device_decides():
    lengths = np.full(B, 1)
    lengths[:8] = 4  # the rows of the first of eight devices
    batch = make_batch(lengths)
    one, used = make_run().fit_bags(batch)
    copies, rows = ({"factory": FLAT, "options": {"placement": kind}} for kind in ("replicated", "row_wise"))
    eight, _ = make_run(2, 4, exchange=copies).fit_bags(batch)
    everywhere, _ = make_run(2, 4, exchange=rows).fit_bags(batch)  # each device sees the ids of the whole batch
    assert (one.bag_share, eight.bag_share, everywhere.bag_share) == (
        BagShare(3 / 32),
        BagShare(1 / 4),
        BagShare(3 / 32),
    )
    assert used == BagUse(lengths.sum(), B * LONGEST * 3 // 32, B * LONGEST)


def test_padding_at_the_end_needs_no_program_of_its_own():
    full = make_batch(np.full(B, 4))
    ids, weight = full.ids.copy(), full.weight.copy()
    ids[20:], weight[20:] = -1, 0
    cut, used = make_run().fit_bags(full._replace(ids=ids, weight=weight))
    assert cut.bag_share == make_run().fit_bags(full)[0].bag_share == BagShare(1 / 4)
    assert used.used == 80


@pytest.mark.parametrize("case", ["full bags", "few slots", "padded", "an exchange that cannot"])
def test_bags_stay_padded(case, monkeypatch):
    run, lengths = make_run(), np.full(B, LONGEST if case == "full bags" else 2)
    if case == "few slots":
        monkeypatch.setattr(bag_places, "LEAST_SLOTS", LEAST_SLOTS)
    if case == "padded":
        run = make_run(embeddings=describe_config()["embeddings"] | {"bags": "padded"})
    if case == "an exchange that cannot":
        monkeypatch.setattr(ReplicatedExchange, "measure_bag_fill", Exchange.measure_bag_fill)
        monkeypatch.setattr(type(run.exchange), "measure_bag_fill", Exchange.measure_bag_fill)
    assert run.fit_bags(make_batch(lengths))[0].bag_share is None


def take_steps(run: Run, *, flat: bool):
    step, state, metrics = run.jit_train_step(), run.init_state(), []
    lengths = np.minimum(np.random.default_rng(3).zipf(1.5, B) - 1, LONGEST)
    lengths[:8], lengths[-8:] = 2, 2
    for seed in range(3):
        batch = make_batch(lengths, seed)
        if flat:
            batch, _ = run.fit_bags(batch)
            assert batch.bag_share in SHARES
        state, made = step(state, put_batch(batch, run.mesh))
        metrics.append(made)
    assert step._cache_size() == 1
    tables = run.exchange.export_tables(state.tables)
    return jax.device_get((metrics, state.params, {name: arrays["rows"] for name, arrays in tables.items()}))


@pytest.mark.parametrize(
    ("mesh", "microbatch", "exchange"),
    [
        ((1, 1), 16, {}),
        ((2, 4), 4, {}),
        ((2, 4), 4, {"exchange": {"factory": FLAT, "options": {"placement": "row_wise"}}}),
        ((2, 4), 0, {"exchange": {"factory": "dmt.tower_exchange:build"}}),
    ],
    ids=["parts", "parts on eight devices", "row_wise", "towers"],
)
def test_steps_are_those_with_padded_bags_on_one_device(mesh, microbatch, exchange):
    parts = {"training": describe_config()["training"] | {"microbatch": microbatch}}
    model = {}
    if "dmt" in str(exchange):
        over = {"over": "wukong_jax.models.dlrm:build", "over_options": {"top_hidden": (8,), "bottom_hidden": (8,)}}
        options = {"towers": 2, "module": {"kind": "dlrm", "compression": 2}, **over}
        model = {"model": {"factory": "dmt.model:build", "options": options}}
    found = take_steps(make_run(*mesh, **parts, **exchange, **model), flat=True)
    # Sums over slots, parts and devices add in another order.
    chex.assert_trees_all_close(found, take_steps(make_run(**model), flat=False), rtol=1e-5, atol=1e-6)


def write_blocks(folder):
    """Writes rows whose bags grow: eight batches need two shares, and the last ones stay padded."""
    folder.mkdir()
    (folder / "schema.json").write_text(schema_to_json(SCHEMA), encoding="utf-8")
    lengths = {"train": np.repeat([1, 1, 4, 4, 1, 4, 12, 12], B), "validation": np.ones(B), "test": np.full(B, 3)}
    for split, own in lengths.items():
        with BlockWriter(folder, split, SCHEMA) as writer:
            writer.append(draw_columns(own.astype(int)))
    return {"factory": "blocks", "path": str(folder), "shuffle": False}


def read_losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in line.items() if k != "examples_per_second"} for line in lines]


def test_a_run_that_stopped_between_shares_ends_as_one_that_never_did(tmp_path, capsys):
    data, ends = write_blocks(tmp_path / "rows"), {}
    for name, starts in {"whole": (8,), "stopped": (3, 8), "padded": (8,)}.items():
        for steps in starts:
            parts = {"data": data, "training": describe_config()["training"] | {"steps": steps, "log_every_steps": 1}}
            if name == "padded":
                parts["embeddings"] = describe_config()["embeddings"] | {"bags": "padded"}
            config = build_run_config(describe_config(**parts))
            ends[name] = train_run(config, tmp_path / name, lambda text: None)["test"]
    said = capsys.readouterr().err
    assert said.count("with places for 6.2% of the slots of bags") == 3  # the stopped run compiles it twice
    whole, stopped, padded = (read_losses(tmp_path / name) for name in ("whole", "stopped", "padded"))
    assert [line for line in stopped if line["split"] == "train"] == [
        line for line in whole if line["split"] == "train"
    ]
    assert ends["stopped"] == ends["whole"]
    train = [line for line in whole if line["split"] == "train"]
    assert [line["bag_places"] for line in train] == [1 / 16, 1 / 16, 0.25, 0.25, 1 / 16, 0.25, 1, 1]
    assert [line["bag_fill"] for line in train] == [1.0] * 6 + [0.75] * 2
    losses = [[line["loss"] for line in lines if line["split"] == "train"] for lines in (whole, padded)]
    np.testing.assert_allclose(*losses, rtol=1e-6)
    assert not any("bag_fill" in line for line in padded)

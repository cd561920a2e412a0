"""Tests the path from store to student: keys, columns joined to rows, loss and tokens; and a replay without leaks."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lattice.filter.permutation_importance import ShuffleSettings, measure_importance
from lattice.losses import build as build_loss
from lattice.network.network import build
from lattice.sketch.predict_latency import measure_predict_milliseconds
from lattice.teacher.knowledge_transfer import build_join, build_keys, find_key_slots
from lattice.teacher.replay import ReplaySettings, find_chunk_ends, measure_hits, replay_teacher
from lattice.teacher.store import StoreDescription, create_store
from lattice.windows.serving_heads import evaluate_heads
from wukong_jax.config import build_run_config, start_config
from wukong_jax.data.blocks.batch import Batch
from wukong_jax.errors import UserError
from wukong_jax.models.cost import count_cost
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.outputs import Outputs
from wukong_jax.models.shape import ModelShape
from wukong_jax.runs.open_run import open_run
from wukong_jax.runs.rows import open_run_data
from wukong_jax.runs.train_run import train_run
from wukong_jax.schema import CategoricalColumn, LabelColumn, Schema, Source

SCHEMA = Schema(
    "views",
    Source("csv"),
    (LabelColumn("click"), LabelColumn("like")),
    categorical=tuple(CategoricalColumn(name, encoding="identity", rows=9) for name in ("user", "shelf", "item")),
    timestamp="time",
)


def make_rows(rows=40, seed=0):
    random = np.random.default_rng(seed)
    return {
        "dense": np.zeros((rows, 0), np.float32),
        "ids": random.integers(1, 5, (rows, 3)).astype(np.int32),
        "labels": (random.random((rows, 2)) < 0.5).astype(np.float32),
        "label_mask": (random.random((rows, 2)) < 0.8).astype(np.float32),
        "domain": np.zeros(rows, np.int32),
        "group": np.zeros(rows, np.int32),
        "timestamp": 3600 * np.arange(rows, dtype=np.int64),
        "weight": np.ones(rows, np.float32),
    }


def test_keys_tell_rows_apart_by_their_columns_and_order():
    rows = make_rows(400)
    slots = find_key_slots(SCHEMA, ("item", "user"))
    assert slots == [2, 0]
    keys = build_keys(rows, slots, with_timestamp=False)
    pairs = [tuple(row[[2, 0]]) for row in rows["ids"]]
    assert len(set(keys.tolist())) == len(set(pairs)) < 400
    assert len({(key, pair) for key, pair in zip(keys.tolist(), pairs, strict=True)}) == len(set(pairs))
    turned = build_keys(rows, [0, 2], with_timestamp=False)
    np.testing.assert_array_equal(turned != keys, rows["ids"][:, 0] != rows["ids"][:, 2])
    assert len(set(build_keys(rows, slots, with_timestamp=True).tolist())) == 400
    assert build_keys(rows, slots, False)[0] == 8429779716991684986  # the same on every machine and in every version
    with pytest.raises(UserError, match="key column 'film': no id column of schema 'views'; it has user, shelf, item"):
        find_key_slots(SCHEMA, ("film",))


@pytest.fixture
def store(tmp_path):
    """Returns a store with a teacher's outputs for half of the pairs at hour 10."""
    store = create_store(tmp_path / "store", StoreDescription(2, ("click", "like"), ("user", "item")))
    rows = make_rows()
    known = rows["ids"][:, 0] <= 2
    keys = build_keys(rows, [0, 2], False)[known]
    embeddings = np.stack([(keys % np.uint64(7)).astype(np.float32), -(keys % np.uint64(5)).astype(np.float32)], axis=1)
    store.write(keys, np.full(len(keys), 36_000), embeddings, np.stack([embeddings[:, 0], embeddings[:, 1]], axis=1))
    return store


def test_rows_read_what_was_known_before_them_and_is_not_too_old(store):
    join = build_join({"store": str(store.folder), "time_to_live_hours": 20, "clip": 2.0}, SCHEMA)
    assert join.widths == {"teacher_embedding": 2, "teacher_logits": 2, "teacher_hit": 1}
    rows = make_rows()
    added, ages = join.look_up(rows)
    keys = build_keys(rows, [0, 2], False)
    for place in range(40):
        expected = rows["ids"][place, 0] <= 2 and 10 <= place <= 30
        assert added["teacher_hit"][place, 0] == expected
        assert ages[place] == (3600 * (place - 10) if expected else 0)
        embedding = np.array([int(keys[place]) % 7, -(int(keys[place]) % 5)]) if expected else np.zeros(2)
        np.testing.assert_array_equal(added["teacher_embedding"][place], np.clip(embedding, -2, 2))
        np.testing.assert_array_equal(added["teacher_logits"][place], embedding)  # logits are not clipped
    assert {name: (array.dtype, array.shape[1]) for name, array in join(rows).items()} == {
        name: (np.float32, width) for name, width in join.widths.items()
    }


def test_kept_share_drops_hits_by_key(store):
    counts = []
    for share in (0.0, 0.5, 1.0):
        join = build_join({"store": str(store.folder), "time_to_live_hours": 1e6, "kept_share": share}, SCHEMA)
        hits = join(make_rows())["teacher_hit"][:, 0]
        keys = build_keys(make_rows(), [0, 2], False)
        assert len({(key, hit) for key, hit in zip(keys[10:].tolist(), hits[10:], strict=True)}) == len(
            set(keys[10:].tolist())
        )
        counts.append(hits.sum())
    assert counts[0] == 0 < counts[1] < counts[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip": 0.0}, r"config.data.join.options.clip = 0.0: must be above 0"),
        ({"kept_share": 1.5}, r"kept_share = 1.5: must be at least 0 and at most 1"),
        ({"time_to_live_hours": -1.0}, r"time_to_live_hours = -1.0: must be above 0"),
        ({"nonsense": 1}, r"nonsense"),
    ],
)
def test_wrong_options_are_refused(store, options, message):
    with pytest.raises(UserError, match=message):
        build_join({"store": str(store.folder), **options}, SCHEMA)
    other = dataclasses.replace(SCHEMA, labels=(LabelColumn("click"),))
    with pytest.raises(UserError, match=r"its teacher has objectives click, like, the rows click"):
        build_join({"store": str(store.folder)}, other)


def test_distillation_is_the_log_loss_against_smoothed_labels_of_hits(store):
    rows = make_rows()
    join = build_join({"store": str(store.folder), "time_to_live_hours": 20}, SCHEMA)
    batch = Batch(**rows, extras=join(rows))
    logits = np.random.default_rng(1).normal(size=(40, 2)).astype(np.float32)
    others = np.random.default_rng(2).normal(size=(40, 2)).astype(np.float32)
    plain = build_loss({}, SCHEMA)(Outputs(jnp.asarray(logits), {}), batch)

    def expected(logits):
        total = mass = 0.0
        for i in range(40):
            for o in range(2):
                if batch.extras["teacher_hit"][i, 0] and batch.label_mask[i, o]:
                    target = 0.9 / (1 + np.exp(-batch.extras["teacher_logits"][i, o])) + 0.05
                    p = 1 / (1 + np.exp(-np.float64(logits[i, o])))
                    total -= target * np.log(p) + (1 - target) * np.log(1 - p)
                    mass += 1
        return total / mass

    loss = build_loss({"distillation_weight": 0.5, "label_smoothing": 0.1}, SCHEMA)
    for aux, read in (({}, logits), ({"distilled_logits": jnp.asarray(others)}, others)):
        made = loss(Outputs(jnp.asarray(logits), aux), batch)
        np.testing.assert_allclose(made.minimised - plain.minimised, 0.5 * expected(read), rtol=1e-4)
        assert made.log_loss_sum == plain.log_loss_sum
    missed = batch._replace(extras={**batch.extras, "teacher_hit": np.zeros((40, 1), np.float32)})
    assert loss(Outputs(jnp.asarray(logits), {}), missed).minimised == plain.minimised
    with pytest.raises(UserError, match=r"label_smoothing = 1.0: must be at least 0 and below 1"):
        build_loss({"label_smoothing": 1.0}, SCHEMA)


def test_student_reads_the_teachers_embedding_and_serves_its_own_head():
    shape = ModelShape(0, 3, 8, 2, extras=(("teacher_embedding", 2),))
    options = {"layers": 1, "teacher_tokens": 2, "distillation_head": True, "head_hidden": 0}
    model = build(options, shape)
    random = np.random.default_rng(0)
    embeddings = random.normal(size=(4, 3, 8)).astype(np.float32)
    arrays = np.zeros((4, 0), np.float32), embeddings, np.ones((4, 3)), np.zeros(4, np.int32)
    known = {"teacher_embedding": random.normal(size=(4, 2)).astype(np.float32)}
    shapes = jax.eval_shape(lambda key: model.init(key, ModelInputs(*arrays, known), train=False), jax.random.key(0))
    variables = jax.tree.map(lambda leaf: (0.3 * random.normal(size=leaf.shape)).astype(np.float32), shapes)

    def loss(variables, known, which):
        outputs = model.apply(variables, ModelInputs(*arrays, known), train=True)
        return (which(outputs) ** 2).sum()

    served = jax.grad(loss, (0, 1))(variables, known, lambda outputs: outputs.logits - 1)
    assert np.abs(served[1]["teacher_embedding"]).max() > 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(served[0]["params"]["distillation_heads"]))
    taught = jax.grad(loss)(variables, known, lambda outputs: outputs.aux["distilled_logits"] - 1)["params"]
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(taught["heads"]))
    assert np.abs(taught["fusion_0"]["lcb"]).max() > 0
    cost, plain = count_cost(model, shape), count_cost(build({**options, "distillation_head": False}, shape), shape)
    assert cost.serve_flops_per_example == plain.serve_flops_per_example == plain.forward_flops_per_example
    assert cost.forward_flops_per_example > plain.forward_flops_per_example
    with pytest.raises(UserError, match=r"teacher_tokens = 2: no teacher's embedding is joined to the rows"):
        build(options, dataclasses.replace(shape, extras=()))


def make_config(data):
    config = start_config()
    config.name = "small"
    config.data.factory = "planted_portfolios"
    config.data.shuffle = False
    config.training.start_at_rate = False
    config.data.options = data
    config.embeddings.width = 4
    config.embeddings.optimizer.kind, config.embeddings.optimizer.learning_rate = "lazy_adam", 1e-2
    config.model.factory = "lattice.network:build"
    config.model.options = {
        "layers": 1,
        "fusion": {"fmb_tokens": 2, "lcb_tokens": 2, "rank": 2, "hidden": ()},
        "head_hidden": 0,
    }
    config.training.batch_size, config.training.epochs = 64, 1
    config.training.evaluation_batch_size = 64
    return config


def test_replay_fills_the_store_in_time_and_a_student_trains_on_it(tmp_path):
    planted = {"domains": 2, "fields": 1, "dense_fields": 0, "values_per_field": 6, "train_rows": 400, "days": 2.0}
    config = make_config(planted | {"validation_rows": 64, "test_rows": 64})
    settings = ReplaySettings(3, ("user", "item"))
    told = []
    store = replay_teacher(build_run_config(config), tmp_path / "teacher", tmp_path / "store", settings, told.append)
    assert find_chunk_ends(400, 64, 3) == [0, 128, 320, 400]
    assert [line.split(": ")[1] for line in told if line.startswith("chunk")] == [
        "trained to row 128, wrote 192 rows",
        "trained to row 320, wrote 80 rows",
        "trained to row 400, wrote 128 rows",
    ]
    data = open_run_data(build_run_config(config).data, tmp_path / "teacher" / "data", print)
    times = np.concatenate([data.splits["train"].read(i)["timestamp"] for i in range(data.splits["train"].num_blocks)])
    written = sorted({int(at) for path in store.folder.glob("segment-*/written_at.npy") for at in np.load(path)})
    assert written == [times[127] + 1, times[319] + 1, times[399] + 1]  # a row of the same second must not read it
    hits = measure_hits(data, store.folder, 1e4, [0, 128, 320, 400])
    assert [row["rows"] for row in hits] == ["chunk 1", "chunk 2", "chunk 3", "validation", "test"]
    assert hits[0]["hit_rate"] == 0
    assert [row["hit_rate"] for row in hits[1:]] == [1.0] * 4
    assert measure_hits(data, store.folder, 1e-3, [0, 400])[0]["hit_rate"] < 0.1

    again = []
    replay_teacher(build_run_config(config), tmp_path / "teacher", store.folder, settings, again.append)
    assert not [line for line in again if line.startswith("chunk")]
    other = dataclasses.replace(settings, chunks=2)
    with pytest.raises(UserError, match=r"chunks = 2: the replay in .*teacher was begun with 3; give that, or another"):
        replay_teacher(build_run_config(config), tmp_path / "teacher", store.folder, other, again.append)
    with pytest.raises(UserError, match=r"store = .*elsewhere': the replay in .* was begun with"):
        replay_teacher(build_run_config(config), tmp_path / "teacher", tmp_path / "elsewhere", settings, again.append)

    kept = store.folder.rename(tmp_path / "kept")
    with pytest.raises(UserError, match=r"store: is gone, and the replay in .* has written 3 of 3 chunks to it; give"):
        replay_teacher(build_run_config(config), tmp_path / "teacher", store.folder, settings, again.append)
    kept.rename(store.folder)

    config.data.join = {
        "factory": "lattice.teacher.knowledge_transfer:build_join",
        "options": {"store": str(store.folder), "time_to_live_hours": 1e4},
    }
    config.loss = {"factory": "lattice.losses:build", "options": {"distillation_weight": 0.5}}
    config.model.options = {**config.model.options.to_dict(), "teacher_tokens": 1}
    summary = train_run(build_run_config(config), str(tmp_path / "student"), told.append)
    assert np.isfinite(summary["test"]["log_loss"])

    # what is joined to its rows goes along wherever its trained state is asked
    opened = open_run(tmp_path / "student")
    judged = evaluate_heads(opened, "test", {"click": "click"})
    np.testing.assert_allclose(judged["click"]["log_loss"], summary["test"]["click/log_loss"], rtol=1e-6)
    measured = measure_importance(opened, ShuffleSettings(rows=64, shuffles=1))
    np.testing.assert_allclose(measured.objectives.log_loss[0], summary["validation"]["click/log_loss"], rtol=1e-5)
    assert measure_predict_milliseconds(opened.run, opened.data, 64, 1) > 0
    assert json.loads((tmp_path / "student" / "config.json").read_text())["data"]["join"]["options"]["store"]


def test_replay_refuses_what_would_not_be_a_replay(tmp_path):
    config = make_config({"domains": 2, "train_rows": 100})
    build_run_config(config)
    for section, key, value, message in (
        ("data", "shuffle", True, "config.data.shuffle = True"),
        ("training", "start_at_rate", True, "may not know the label rates of later rows"),
    ):
        config[section][key] = value
        with pytest.raises(UserError, match=message):
            replay_teacher(
                build_run_config(config), tmp_path / "w", tmp_path / "s", ReplaySettings(2, ("user",)), print
            )
        config[section][key] = False
    config.training.epochs = 2
    with pytest.raises(UserError, match=r"config.training.epochs = 2: a replay is one pass"):
        replay_teacher(build_run_config(config), tmp_path / "w", tmp_path / "s", ReplaySettings(2, ("user",)), print)
    with pytest.raises(UserError, match=r"chunks = 3: the 100 rows are 2 steps of 64"):
        find_chunk_ends(100, 64, 3)
    for options, message in (
        ({"chunks": 1}, "chunks = 1: must be at least 2"),
        ({"scored": "all"}, "scored = 'all'"),
        ({"with_timestamp": True, "scored": "same"}, "an impression does not recur"),
    ):
        with pytest.raises(UserError, match=message):
            ReplaySettings(**{"chunks": 2, "key_columns": ("user",), **options})

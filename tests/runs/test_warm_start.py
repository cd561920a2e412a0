"""Tests that a run starts with another run's rows, by value, and weights, and that nothing is lost on the way."""

import dataclasses
import json

import jax
import numpy as np
import polars as pl
import pytest

from tests.runs.test_train_run import silent
from wukong_jax.config import build_run_config
from wukong_jax.data.raw.vocabulary import load_vocabulary
from wukong_jax.errors import UserError
from wukong_jax.runs.checkpoints import Checkpoints
from wukong_jax.runs.folder import RunFolder
from wukong_jax.runs.rows import open_rows_of_run
from wukong_jax.runs.train_run import train_run
from wukong_jax.runs.warm_start import open_old_run, warm_start
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source, Split, schema_to_json
from wukong_jax.training.run import build_run
from wukong_jax.training.start_logits import START_LOGITS

SCHEMA = Schema(
    "shop",
    Source("csv"),
    (LabelColumn("click"),),
    Split(by="order", validation_fraction=0.0, test_fraction=0.1),
    dense=(DenseColumn("price"),),
    categorical=(CategoricalColumn("item"), CategoricalColumn("user", encoding="hash", rows=30)),
    sequences=(CategoricalColumn("seen", separator="|", max_length=3, vocabulary_of="item"),),
    domain="site",
)
EIGHT = {"hosts": 2, "chips": 4}


def write_rows(folder, items, sites=("a", "b"), seed=0, schema=SCHEMA):
    """Writes a log of 320 rows with a schema; values are drawn from `items` and `sites`."""
    folder.mkdir()
    random = np.random.default_rng(seed)
    pl.DataFrame(
        {
            "price": random.normal(size=320).round(2),
            "item": random.choice(items, 320),
            "user": random.integers(0, 50, 320),
            "seen": ["|".join(random.choice(items, random.integers(0, 4))) for _ in range(320)],
            "site": random.choice(sites, 320),
            "click": (random.random(320) < 0.3).astype(int),
        }
    ).write_csv(folder / "rows.csv")
    (folder / "schema.json").write_text(schema_to_json(schema), encoding="utf-8")
    return folder


def make_config(rows, mesh=None, kind="adagrad", epochs=1, model="wukong", **changes):
    options = {"options": {"layers": 1}} if model == "wukong" else {}
    return build_run_config(
        {
            "name": "shop",
            "data": {
                "factory": "raw",
                "path": str(rows / "rows.csv"),
                "schema": str(rows / "schema.json"),
                "shuffle": False,
            },
            "embeddings": {
                "width": 4,
                "optimizer": {"kind": kind, "learning_rate": 0.1, "l2": 1e-3},
                "initial_scale": 0.3,
            },
            "model": {"factory": f"wukong_jax.models.{model}:build"} | options,
            "training": {"batch_size": 32, "evaluation_batch_size": 64, "epochs": epochs},
            "optimizer": {"learning_rate": 0.01},
            "mesh": mesh or {"hosts": 1, "chips": 1},
        }
        | changes
    )


@pytest.fixture(scope="module")
def old_run(tmp_path_factory):
    """A folder with `rows`, and a `run` on one device."""
    folder = tmp_path_factory.mktemp("old")
    rows = write_rows(folder / "rows", [f"i{value}" for value in range(12)])
    train_run(make_config(rows), str(folder / "run"), silent)
    return folder


def start(config, workdir):
    """Returns the new run, its rows, its state after the warm start, and what was said."""
    folder = RunFolder(workdir)
    data = open_rows_of_run(config.data, folder, silent, "")
    run = build_run(config, data.schema)
    state, said = warm_start(open_old_run(config), run, data, run.init_state())
    return run, data, state, said


def read_tables(run, state):
    return run.exchange.export_tables(state.tables)


def read_run(workdir):
    """Returns the tables and the dense part of a run's newest checkpoint."""
    folder = RunFolder(workdir)
    config = dataclasses.replace(folder.load_config(), mesh=dataclasses.replace(folder.load_config().mesh, chips=1))
    run = build_run(config, open_rows_of_run(config.data, folder, silent, "").schema)
    checkpoints = Checkpoints(folder.checkpoints, run.exchange, read_only=True)
    state, _ = checkpoints.restore(run.abstract_state(), "latest", run.state_sharding)
    checkpoints.close()
    return read_tables(run, state), state


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(found), jax.device_get(expected))


@pytest.mark.parametrize("kind", ["adagrad", "lazy_adam"])
def test_two_runs_of_an_epoch_equal_one_of_two(kind, tmp_path):
    rows = write_rows(tmp_path / "rows", [f"i{value}" for value in range(12)])
    train_run(make_config(rows, kind=kind, epochs=2, model="fm"), str(tmp_path / "both"), silent)
    train_run(make_config(rows, kind=kind, model="fm"), str(tmp_path / "first"), silent)
    said = []
    config = make_config(rows, kind=kind, model="fm", warm_start=str(tmp_path / "first"), warm_start_optimizer=True)
    train_run(config, str(tmp_path / "second"), said.append)
    (tables, state), (expected_tables, expected) = read_run(tmp_path / "second"), read_run(tmp_path / "both")
    for name in ("params", "optimizer_state", "statistics"):
        assert_same(getattr(state, name), getattr(expected, name))
    for table in tables.values():
        if "last_step" in table:
            table["last_step"] += 9  # steps of the first run: the second counts its own
    assert_same(tables, expected_tables)
    (taken,) = [text for text in said if "warm start" in text]
    assert "its latest checkpoint, step 9:" in taken
    assert "item     13     13    0  taken" in taken
    assert "state of the dense optimizer: taken" in taken


@pytest.mark.parametrize("mesh", [{"hosts": 1, "chips": 1}, EIGHT | {"fsdp": "all", "fsdp_min_size": 1}], ids=str)
def test_where_nothing_changed_tables_and_weights_have_the_same_bits(old_run, mesh, tmp_path):
    config = make_config(old_run / "rows", mesh, warm_start=str(old_run / "run"))
    run, _, state, said = start(config, tmp_path / "new")
    expected_tables, expected = read_run(old_run / "run")
    found = read_tables(run, state)
    fresh = read_tables(run, run.init_state())
    for table, arrays in found.items():
        np.testing.assert_array_equal(arrays["rows"], expected_tables[table]["rows"])
        assert_same(
            {name: arrays[name] for name in arrays if name != "rows"},
            {name: array for name, array in fresh[table].items() if name != "rows"},
        )
    assert_same(state.params, expected.params)
    assert_same(state.statistics, expected.statistics)
    assert_same(state.optimizer_state, run.init_state().optimizer_state)
    assert int(state.step) == 0
    for leaf, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(run.state_sharding), strict=True):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    assert "new:" not in said


def test_a_run_over_eight_devices_starts_one_on_a_single_one(old_run, tmp_path):
    train_run(make_config(old_run / "rows", EIGHT, model="fm"), str(tmp_path / "old"), silent)
    config = make_config(old_run / "rows", model="fm", warm_start=str(tmp_path / "old"), warm_start_optimizer=True)
    run, _, state, _ = start(config, tmp_path / "new")
    expected, before = read_run(tmp_path / "old")
    found = read_tables(run, state)
    for table, arrays in found.items():
        arrays["last_step"] += int(before.step)
        assert_same(arrays, expected[table])
    assert_same(state.params, before.params)


def test_rows_follow_their_values_and_new_ones_start_as_in_a_new_run(old_run, tmp_path):
    schema = dataclasses.replace(SCHEMA, categorical=(*SCHEMA.categorical, CategoricalColumn("site")))
    rows = write_rows(tmp_path / "rows", [f"i{value}" for value in range(5, 20)], ("b", "c"), 1, schema)
    config = make_config(rows, EIGHT, warm_start=str(old_run / "run"), warm_start_optimizer=True)
    run, data, state, said = start(config, tmp_path / "new")
    found, fresh = read_tables(run, state), read_tables(run, run.init_state())
    old_tables, old_state = read_run(old_run / "run")
    new_ids = {value: row + 1 for row, value in enumerate(load_vocabulary(data.vocabulary, "item").values)}
    old_ids = {
        value: row + 1 for row, value in enumerate(load_vocabulary(old_run / "run/data/vocabulary", "item").values)
    }
    new_ids[None] = old_ids[None] = 0
    old_ids = {value: row for value, row in old_ids.items() if value in new_ids}
    assert len(old_ids) == 8
    for value, row in new_ids.items():
        for name, array in found["item"].items():
            if value not in old_ids:
                np.testing.assert_array_equal(array[row], fresh["item"][name][row])
                continue
            expected = old_tables["item"][name][old_ids[value]]
            np.testing.assert_array_equal(array[row], expected - 9 if name == "last_step" else expected)
    np.testing.assert_array_equal(found["user"]["rows"], old_tables["user"]["rows"])
    assert_same(found["site"], fresh["site"])
    # A fourth token changes the shapes of some weights: those that fit are taken, and all rates are those of new rows.
    names = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)}
    before = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(old_state.params)}
    begun = dict(jax.tree_util.tree_leaves_with_path(run.init_state().params))
    begun = {jax.tree_util.keystr(path): leaf for path, leaf in begun.items()}
    taken = [name for name in names if name in before and before[name].shape == names[name].shape]
    assert 0 < len(taken) < len(names)
    for name, leaf in names.items():
        np.testing.assert_array_equal(leaf, before[name] if name in taken else begun[name])
    assert f"dense weights: {len(taken)} of {len(names)} taken; new: " in said
    assert "id columns, domains differ between the runs" in said
    assert "new, as it has other arrays" in said


def test_start_logits_follow_domains_by_value(old_run, tmp_path):
    rows = write_rows(tmp_path / "rows", ["i1", "i2"], ("b", "c"), 1)
    config = make_config(rows, warm_start=str(old_run / "run"))
    _, _, state, _ = start(config, tmp_path / "new")
    _, old_state = read_run(old_run / "run")
    old, new = (np.asarray(s.statistics[START_LOGITS]) for s in (old_state, state))
    assert new[0, 0] == old[1, 0] != old[0, 0]  # domain b
    assert new[1, 0] == 0  # no state given by `start` but zeros


def test_another_width_or_model_is_told_and_starts_anew(old_run, tmp_path):
    config = make_config(old_run / "rows", model="dlrm", warm_start=str(old_run / "run"))
    config = dataclasses.replace(config, embeddings=dataclasses.replace(config.embeddings, width=8))
    run, _, state, said = start(config, tmp_path / "new")
    assert_same(read_tables(run, state), read_tables(run, run.init_state()))
    assert "rows had 4 numbers, now 8" in said


def test_what_cannot_be_a_start_is_refused_before_rows_are_prepared(old_run, tmp_path):
    rows = old_run / "rows"
    with pytest.raises(UserError, match=r"config.warm_start = '\S+nothing': holds no run \(no config.json\)"):
        train_run(make_config(rows, warm_start=str(tmp_path / "nothing")), str(tmp_path / "new"), silent)
    (tmp_path / "unsaved").mkdir()
    config = json.loads((old_run / "run" / "config.json").read_text(encoding="utf-8"))
    config["data"]["path"] = "elsewhere"
    (tmp_path / "unsaved" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError, match=r"config.warm_start = '\S+unsaved': \S+data: its prepared rows are gone"):
        train_run(make_config(rows, warm_start=str(tmp_path / "unsaved")), str(tmp_path / "new"), silent)
    assert not (tmp_path / "new" / "data").exists()
    with pytest.raises(UserError, match="warm_start_optimizer = True: has no effect without warm_start"):
        make_config(rows, warm_start_optimizer=True)
    config = make_config(rows, warm_start=str(old_run / "run"))
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, start_at_rate=False))
    with pytest.raises(UserError, match=r"set config\.training\.start_at_rate = True"):
        start(config, tmp_path / "rate")


def test_a_warm_run_resumes_without_the_old_one(old_run, tmp_path):
    train_run(make_config(old_run / "rows"), str(tmp_path / "old"), silent)
    config = make_config(old_run / "rows", warm_start=str(tmp_path / "old"))
    train_run(config, str(tmp_path / "new"), silent)
    (tmp_path / "old").rename(tmp_path / "gone")
    longer = dataclasses.replace(config, training=dataclasses.replace(config.training, epochs=2))
    said = []
    assert train_run(longer, str(tmp_path / "new"), said.append)["step"] == 18
    assert not any("warm start" in text for text in said)
    other = dataclasses.replace(longer, warm_start="")
    with pytest.raises(UserError, match=r"config\.warm_start = '': the run in"):
        train_run(other, str(tmp_path / "new"), silent)

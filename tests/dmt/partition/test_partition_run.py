import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from dmt.partition.partitioner import AffinitySums, PartitionOptions, compute_affinity
from dmt.partition.run import (
    PartitionSettings,
    embed_columns,
    embed_tokens,
    find_shared_tables,
    measure_affinity,
    partition_run,
    weigh_columns,
    write_partition,
)
from dmt.towers import load_towers
from tests.end_to_end.run_script import run_script, train_tiny
from wukong_jax.config import build_run_config, start_config
from wukong_jax.embeddings.layout import EmbeddingsConfig, FieldOverride, build_embedding_layout
from wukong_jax.embeddings.row_optimizers import RowOptimizer
from wukong_jax.errors import UserError
from wukong_jax.runs.evaluation import put_batch, read_in_order
from wukong_jax.runs.open_run import OpenRun
from wukong_jax.runs.rows import open_run_data
from wukong_jax.schema import CategoricalColumn, LabelColumn, Schema, Source
from wukong_jax.training.run import build_run

WIDTH = 16
FEW = PartitionOptions(towers=4, steps=600, layouts=4, restarts=8)  # of seconds


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Opens a run on planted groups with hand-written tables, where columns of a group share 3 of 16 directions."""
    config = start_config()
    config.name = "planted"
    config.data.factory = "planted_clicks"
    rows = {"train_rows": 2000, "validation_rows": 3000, "test_rows": 10}
    config.data.options = ConfigDict({"fields": 12, "values_per_field": 10, "groups": 4, **rows})
    config.embeddings.width = WIDTH
    config.embeddings.optimizer.kind = "sgd"
    config.embeddings.optimizer.learning_rate = 0.1
    config.model.options = {"layers": 1, "fmb_tokens": 4, "lcb_tokens": 4, "rank": 4}
    config.optimizer.learning_rate = 0.1
    config.training.batch_size = 512
    config.training.steps = 1
    config.training.evaluation_batch_size = 1024
    config = build_run_config(config)
    data = open_run_data(config.data, tmp_path_factory.mktemp("run") / "data", say=lambda text: None)
    run = build_run(config, data.schema)
    state = run.init_state()
    logical = {table: dict(arrays) for table, arrays in run.exchange.export_tables(state.tables).items()}
    random = np.random.default_rng(0)
    for group in data.report["groups"]:
        basis = np.linalg.qr(random.normal(size=(WIDTH, 3)))[0]
        for column in group:
            own = random.normal(size=(11, 3)) @ basis.T + 0.2 * random.normal(size=(11, WIDTH))
            logical[column]["rows"] = own.astype(np.float32)
    return OpenRun(run, data, state.replace(tables=run.exchange.import_tables(logical)))


@pytest.fixture(scope="module")
def described(opened):
    return partition_run(opened, PartitionSettings(FEW, batches=2))


def test_embeddings_are_the_rows_of_the_ids(opened):
    batch = next(read_in_order(opened.data.splits["validation"], opened.run.schema, 64))
    tokens = embed_tokens(opened.run, opened.state, put_batch(batch, opened.run.mesh))
    logical = opened.run.exchange.export_tables(opened.state.tables)
    expected = [logical[f"field_{i}"]["rows"][batch.ids[:, i]] for i in range(12)]
    np.testing.assert_array_equal(tokens, np.stack(expected, axis=1))


def test_the_planted_groups_are_found_and_named(opened, described):
    assert {frozenset(tower) for tower in described["towers"]} == set(map(frozenset, opened.data.report["groups"]))
    assert described["planted"]["agreement"] == 1
    assert described["planted"]["strided_agreement"] < 0.5
    assert described["similarity"]["within"] > described["strided"]["within"]
    assert (described["split"], described["rows"]) == ("validation", 2048)
    assert described["loads"] == [3, 3, 3, 3]
    assert described["settings"]["towers"] == 4


def test_the_order_of_columns_in_the_schema_changes_nothing(opened, described, monkeypatch):
    """The same sums with the columns permuted, as another schema would give them."""
    measured = measure_affinity(opened, 2, 0)
    order = np.random.default_rng(1).permutation(12)
    sums = AffinitySums(*(array[np.ix_(order, order)] if array.ndim == 2 else array[order] for array in measured.sums))
    columns = tuple(measured.columns[i] for i in order)
    other = dataclasses.replace(measured, columns=columns, sums=sums, ids_per_row=measured.ids_per_row[order])
    monkeypatch.setattr("dmt.partition.run.measure_affinity", lambda *_: other)
    again = partition_run(opened, PartitionSettings(FEW, batches=2))
    assert sorted(map(sorted, again["towers"])) == sorted(map(sorted, described["towers"]))
    for column in columns:
        assert again["layout"][column] == described["layout"][column]


def test_batches_beyond_the_split_and_their_padding_add_nothing(opened):
    """3000 rows are 3 batches of 1024, the last padded: equal to all rows by hand."""
    measured = measure_affinity(opened, 100, 0)
    assert measured.rows == 3000
    np.testing.assert_array_equal(measured.sums.pairs, 3000)
    np.testing.assert_array_equal(measured.ids_per_row, 1)
    blocks = opened.data.splits["validation"]
    ids = np.concatenate([blocks.read(i)["ids"] for i in range(blocks.num_blocks)])
    logical = opened.run.exchange.export_tables(opened.state.tables)
    rows = [logical[f"field_{i}"]["rows"][ids[:, i]] for i in (2, 7)]
    cosines = (rows[0] * rows[1]).sum(1) / np.linalg.norm(rows[0], axis=1) / np.linalg.norm(rows[1], axis=1)
    affinity = compute_affinity(measured.sums)
    assert affinity[2, 7] == pytest.approx(np.abs(cosines).mean(), abs=1e-5)  # float32 sums of 1024


def test_files_are_written_whole_and_read_back_as_towers(described, tmp_path):
    output = tmp_path / "new" / "towers.json"
    picture = write_partition(described, output, "A title")
    assert load_towers(output) == described["towers"]
    assert json.loads(output.read_text())["affinity"] == described["affinity"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in output.parent.iterdir()) == ["towers.json", "towers.png"]


def test_outputs_that_cannot_be_written_are_refused(described, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--output = .*file/towers\.json: File exists"):
        write_partition(described, tmp_path / "file" / "towers.json", "")
    with pytest.raises(UserError, match=r"ends in \.json"):
        write_partition(described, tmp_path / "towers.png", "")


def test_bytes_balance_tables_within_the_tolerance(opened):
    settings = PartitionSettings(dataclasses.replace(FEW, steps=20), balance="bytes", tolerance=0.05, batches=1)
    found = partition_run(opened, settings)
    assert found["loads"] == [3 * 11 * WIDTH * 4] * 4
    assert found["settings"]["tolerance"] == 0.05


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"options": dataclasses.replace(FEW, towers=13)}, "towers = 13: .* at most the 12 columns"),
        (
            {"options": dataclasses.replace(FEW, towers=5), "balance": "bytes", "tolerance": 0.0},
            "tolerance = 0: allows",
        ),
    ],
)
def test_towers_that_cannot_be_are_refused(opened, settings, message):
    with pytest.raises(UserError, match=message):
        partition_run(opened, PartitionSettings(**{"options": FEW, "batches": 1, **settings}))


def test_settings_without_effect_are_refused():
    with pytest.raises(UserError, match=r"tolerance = 0\.2: towers balanced by count"):
        PartitionSettings(FEW, tolerance=0.2)
    with pytest.raises(UserError, match="batches = 0"):
        PartitionSettings(FEW, batches=0)


def build_layout(**overrides):
    """Returns a layout: item and history share a table, tags is an unpooled bag, user has two embeddings per value."""
    schema = Schema(
        name="shop",
        source=Source(format="csv"),
        labels=(LabelColumn("click"),),
        categorical=(
            CategoricalColumn("user", rows=100),
            CategoricalColumn("item", rows=50),
            CategoricalColumn("tags", rows=10, separator="|", max_length=3),
            CategoricalColumn("history", separator="|", max_length=4, vocabulary_of="item"),
        ),
    )
    fields = {"user": FieldOverride(count=2), "tags": FieldOverride(pooling="none"), **overrides}
    return build_embedding_layout(schema, EmbeddingsConfig(width=8, optimizer=RowOptimizer("sgd", 0.1), fields=fields))


def test_columns_of_one_table_are_bound_and_its_bytes_counted_once():
    layout = build_layout()
    assert find_shared_tables(layout) == [[1, 3]]
    bytes_of = {"user": 100 * 16 * 4, "item": 50 * 8 * 4, "tags": 10 * 8 * 4, "history": 0}
    assert weigh_columns(layout, None, "bytes").tolist() == list(bytes_of.values())
    assert weigh_columns(layout, None, "count") is None


def test_a_column_of_several_tokens_has_the_direction_of_their_mean():
    layout = build_layout()
    tokens = np.random.default_rng(0).normal(size=(5, layout.tokens, 8)).astype(np.float32)
    columns = [(0, 1), (2,), (3, 4, 5), (6,)]  # user, item, tags, history
    assert layout.tokens == 7
    embedded = np.asarray(embed_columns(layout, jnp.asarray(tokens)))
    for place, own in enumerate(columns):
        expected = sum(tokens[:, token] for token in own) / len(own)
        ratio = embedded[:, place] / expected
        np.testing.assert_allclose(ratio, len(own), rtol=1e-4)  # float32 sums that may cancel


def test_narrow_columns_are_refused(opened):
    layout = build_layout(item=FieldOverride(width=2))
    run = dataclasses.replace(opened.run, layout=layout)
    with pytest.raises(UserError, match=r"narrower than config\.embeddings\.width"):
        measure_affinity(dataclasses.replace(opened, run=run), 1, 0)


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--workdir={tmp}/none",), 1, "holds no run"),
        (("--workdir={tmp}", "--balance=rows"), 2, "rows"),
        (("--help",), 0, ""),
    ],
)
def test_the_script_fails_in_one_line(flags, code, words, tmp_path):
    flags = [flag.format(tmp=tmp_path) for flag in flags]
    actual, out, err = run_script("partition_towers.py", *flags)
    assert actual == code, err
    assert words in err
    assert "Traceback" not in err
    if code == 1:
        assert len(err.strip().splitlines()) == 1
    assert ("balanced k-means" in out) == (code == 0)


@pytest.mark.slow
def test_the_script_partitions_a_finished_run(tmp_path):
    train_tiny(tmp_path / "run")
    code, out, err = run_script("partition_towers.py", f"--workdir={tmp_path / 'run'}", "--towers=2", "--batches=2")
    assert code == 0, err
    assert "mean affinity" in out
    towers = load_towers(tmp_path / "run" / "towers.json")
    assert sorted(column for tower in towers for column in tower) == [f"field_{i}" for i in range(4)]
    assert (tmp_path / "run" / "towers.png").exists()

"""Tests that rows made on the host are those of a new run's tables, and that carried tables join them with others."""

import jax
import ml_dtypes
import numpy as np
import pytest

from tests.training.sharded_steps import MESH_OF_EIGHT, make_run
from wukong_jax.embeddings.carried_rows import NEW, CarriedArray
from wukong_jax.embeddings.fresh_rows import FreshTable
from wukong_jax.embeddings.layout import EmbeddingsConfig, build_embedding_layout
from wukong_jax.embeddings.reset_rows import reset_rows
from wukong_jax.embeddings.row_optimizers import RowOptimizer
from wukong_jax.embeddings.tables import INIT_CHUNK_ROWS, export_tables, init_tables
from wukong_jax.schema import CategoricalColumn, LabelColumn, Schema, Source
from wukong_jax.training.state import table_key

ROWS = 2 * INIT_CHUNK_ROWS + 77
KEY = jax.random.PRNGKey(3)
OPTIMIZERS = (
    RowOptimizer("adagrad", 0.1, l2=0.1, initial_accumulator=0.5),
    RowOptimizer("lazy_adam", 0.1),
    RowOptimizer("sgd", 0.1),
)


def make_layout(optimizer, dtype):
    columns = (CategoricalColumn("small", "hash", rows=9), CategoricalColumn("large", "hash", rows=ROWS))
    schema = Schema("made_up", Source("csv"), (LabelColumn("y"),), categorical=columns)
    return build_embedding_layout(schema, EmbeddingsConfig(width=3, optimizer=optimizer, dtype=dtype))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: optimizer.kind)
def test_any_rows_have_the_bits_of_a_new_run(optimizer, dtype):
    layout = make_layout(optimizer, dtype)
    tables = export_tables(layout, init_tables(layout, KEY))
    ids = np.random.default_rng(0).integers(0, ROWS, 50)
    for table, some in (("large", ids), ("large", np.arange(ROWS)), ("small", np.array([8, 0, 8]))):
        fresh = FreshTable(layout.stacks[0], table, KEY)
        assert set(fresh.described) == set(tables[table])
        for name, whole in tables[table].items():
            made = fresh.make(name, some)
            assert made.dtype == whole.dtype
            np.testing.assert_array_equal(made, whole[some])


def test_a_carried_table_equals_one_that_is_filled_row_by_row():
    layout = make_layout(OPTIMIZERS[0], "bfloat16")
    fresh = FreshTable(layout.stacks[0], "large", KEY)
    random = np.random.default_rng(1)
    old = random.normal(size=(40, 3)).astype(np.float32)
    old_rows = np.where(random.random(ROWS) < 0.5, random.integers(0, 40, ROWS), NEW)
    expected = fresh.make("rows", np.arange(ROWS))
    for row, source in enumerate(old_rows):
        if source != NEW:
            expected[row] = old[source].astype(ml_dtypes.bfloat16)
    carried = CarriedArray("rows", fresh, old, old_rows)
    assert (carried.shape, carried.dtype, carried.ndim) == (expected.shape, expected.dtype, 2)
    np.testing.assert_array_equal(np.asarray(carried), expected)
    np.testing.assert_array_equal(carried[4000:4200, 1:3], expected[4000:4200, 1:3])
    touched = CarriedArray("last_step", fresh, np.arange(40, dtype=np.int32), old_rows, shift=-100)
    np.testing.assert_array_equal(touched[5:90], np.where(old_rows == NEW, -1, old_rows - 100)[5:90])
    assert touched[5:90].dtype == np.int32


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("strategy", ["replicated", "row_wise", "column_wise"])
def test_rows_that_are_set_back_are_those_of_a_new_run_wherever_they_lie(strategy, dtype):
    run = make_run(
        {"factory": "wukong_jax.models.fm:build"},
        MESH_OF_EIGHT,
        exchange={"factory": "wukong_jax.embeddings.flat_exchange:build", "options": {"placement": strategy}},
        embeddings={
            "width": 16,
            "dtype": dtype,
            "initial_scale": 0.2,
            "optimizer": {"kind": "adagrad", "learning_rate": 0.1, "l2": 0.1},
        },
    )
    key = table_key(run.config.seed)
    fresh = run.exchange.export_tables(run.exchange.init_tables(key))
    other = {
        table: {name: (array + 3).astype(array.dtype) for name, array in arrays.items()}
        for table, arrays in fresh.items()
    }
    random = np.random.default_rng(0)
    chosen = {
        table: random.choice(len(arrays["rows"]), min(5, len(arrays["rows"])), replace=False)
        for table, arrays in fresh.items()
    }
    chosen.pop(next(iter(chosen)))
    placed = jax.device_put(run.exchange.import_tables(other), run.state_sharding.tables)
    tables = reset_rows(run.exchange, placed, key, chosen)
    found = run.exchange.export_tables(tables)
    for table, arrays in other.items():
        for name, array in arrays.items():
            for row in chosen.get(table, []):
                array[row] = fresh[table][name][row]
            np.testing.assert_array_equal(found[table][name], array)
    for name, sharding in run.exchange.table_sharding.items():
        assert tables[name].rows.sharding.is_equivalent_to(sharding, 2)

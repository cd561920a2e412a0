import dataclasses

import jax
import ml_dtypes
import numpy as np
import pytest

from wukong_jax.embeddings.layout import EmbeddingLayout, EmbeddingsConfig, FieldOverride, build_embedding_layout
from wukong_jax.embeddings.row_optimizers import RowOptimizer
from wukong_jax.embeddings.tables import INIT_CHUNK_ROWS, export_tables, import_tables, init_tables
from wukong_jax.errors import UserError
from wukong_jax.schema import CategoricalColumn, LabelColumn, Schema, Source

ROWS = {"user": INIT_CHUNK_ROWS + 700, "item": 60, "hour": 24}
SCHEMA = Schema(
    "clicks",
    Source("parquet"),
    labels=(LabelColumn("click"),),
    categorical=tuple(CategoricalColumn(name, "identity", rows=rows) for name, rows in ROWS.items()),
)
ADAM = RowOptimizer("lazy_adam", 0.1, l2=0.1)


def build_layout(dtype: str = "float32", optimizer: RowOptimizer = ADAM, **fields: FieldOverride) -> EmbeddingLayout:
    config = EmbeddingsConfig(4, optimizer, initial_scale=0.02, dtype=dtype, fields=fields)  # type: ignore[arg-type]
    return build_embedding_layout(SCHEMA, config)


def test_initial_rows_are_normal_and_of_the_asked_scale() -> None:
    layout = build_layout(item=FieldOverride(initial_scale=0.0))
    logical = export_tables(layout, init_tables(layout, jax.random.key(0)))
    rows = logical["user"]["rows"]
    numbers = rows.size
    # Standard errors: scale / sqrt(n) of the mean, scale / sqrt(2 n) of the deviation; 5 of each.
    assert abs(rows.mean()) < 5 * 0.02 / np.sqrt(numbers)
    assert abs(rows.std() - 0.02) < 5 * 0.02 / np.sqrt(2 * numbers)
    assert len(np.unique(rows)) > 0.99 * numbers  # no chunk repeats another
    assert not logical["item"]["rows"].any()
    assert (logical["user"]["last_step"] == -1).all()


def test_initial_rows_do_not_depend_on_the_stacking() -> None:
    together, apart = build_layout(), build_layout(item=FieldOverride(optimizer=RowOptimizer("sgd", 0.1)))
    assert len(together.stacks) != len(apart.stacks)
    key = jax.random.key(5)
    first, second = (export_tables(layout, init_tables(layout, key)) for layout in (together, apart))
    for table in ROWS:
        np.testing.assert_array_equal(first[table]["rows"], second[table]["rows"])
    assert not np.array_equal(first["item"]["rows"][:24], first["hour"]["rows"])


def test_accumulators_start_at_their_initial_value() -> None:
    layout = build_layout(optimizer=RowOptimizer("rowwise_adagrad", 0.1, initial_accumulator=0.5))
    logical = export_tables(layout, init_tables(layout, jax.random.key(0)))
    assert logical["item"]["accumulator"].shape == (60,)
    assert (logical["item"]["accumulator"] == 0.5).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("merge", ["scratch", "sort"])
def test_export_then_import_gives_the_same_arrays(dtype: str, merge: str) -> None:
    layout = build_layout(dtype, hour=FieldOverride(width=2))
    tables = init_tables(layout, jax.random.key(0), merge)  # type: ignore[arg-type]
    logical = export_tables(layout, tables)
    assert set(logical["hour"]) == {"rows", "first_moment", "second_moment", "touch_count", "last_step"}
    assert logical["hour"]["rows"].shape == (24, 2)
    assert logical["hour"]["rows"].dtype == (np.float32 if dtype == "float32" else ml_dtypes.bfloat16)
    jax.tree.map(np.testing.assert_array_equal, tables, import_tables(layout, logical, merge))  # type: ignore[arg-type]


def test_tables_restore_into_another_stacking() -> None:
    other = dataclasses.replace(SCHEMA, categorical=SCHEMA.categorical[::-1])
    layout = build_layout()
    turned = build_embedding_layout(other, EmbeddingsConfig(4, ADAM))
    assert layout.stacks[0].tables == turned.stacks[0].tables[::-1]
    logical = export_tables(layout, init_tables(layout, jax.random.key(0)))
    again = export_tables(turned, import_tables(turned, logical))
    jax.tree.map(np.testing.assert_array_equal, logical, again)


def test_exported_arrays_survive_a_donated_step() -> None:
    layout = build_layout()
    for tables in (init_tables(layout, jax.random.key(0)),):
        imported = import_tables(layout, export_tables(layout, tables))
        logical = export_tables(layout, imported)
        kept = jax.tree.map(np.copy, logical)
        jax.block_until_ready(jax.jit(lambda t: jax.tree.map(lambda x: x * 0 + 7, t), donate_argnums=0)(imported))
        jax.tree.map(np.testing.assert_array_equal, logical, kept)


def test_what_does_not_fit_is_refused_by_name() -> None:
    layout = build_layout()
    logical = export_tables(layout, init_tables(layout, jax.random.key(0)))
    with pytest.raises(UserError, match="tables"):
        import_tables(layout, {name: logical[name] for name in ("user", "item")})
    with pytest.raises(UserError, match=r"table 'user': has arrays .*optimizer"):
        import_tables(build_layout(optimizer=RowOptimizer("sgd", 0.1)), logical)
    with pytest.raises(UserError, match=r"rows: float32.* does not fit"):
        import_tables(build_layout("bfloat16"), logical)
    short = {**logical, "item": {name: array[:-1] for name, array in logical["item"].items()}}
    with pytest.raises(UserError, match=r"table 'item', .*\[59"):
        import_tables(layout, short)

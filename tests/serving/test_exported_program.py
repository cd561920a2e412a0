"""Tests that the program of every model computes what the predict step computes, for any number of rows."""

import jax
import numpy as np
import pytest
from jax import export

from tests.serving.served_runs import build_served_run, draw_served_batch, init_random_state
from wukong_jax.errors import UserError
from wukong_jax.models.model_list import list_models
from wukong_jax.serving.artefact import ServedTable
from wukong_jax.serving.program import export_program, flatten_network
from wukong_jax.serving.table_files import quantise_rows, to_bfloat16_bits

SEQUENCE = {"fields": {"history": {"pooling": "none"}}}
LATTICE = {"sequences": ["history"], "untied": ["ffn", "fmb", "heads"], "transformer": {"heads": 2}}
TOWERS = [["item", "history", "site"], ["user", "tags"]]
CASES = {
    **{name: (name, {}, {}) for name in list_models() if not name.startswith("dmt.")},
    "lattice.baselines.pepnet:build": ("lattice.baselines.pepnet:build", {"prior_columns": ["user"]}, {}),
    "wukong_jax.models.logistic_regression:build": ("wukong_jax.models.logistic_regression:build", {}, {"width": 2}),
    "narrow columns, two embeddings a value, means": (
        "wukong_jax.models.wukong:build",
        {"layers": 1},
        {"pooling": "mean", "fields": {"site": {"width": 3}, "user": {"width": 2}, "item": {"count": 2}}},
    ),
    "bfloat16 tables": ("wukong_jax.models.fm:build", {}, {"dtype": "bfloat16"}),
    "lattice with sequences and untied weights": ("lattice.network:build", LATTICE, SEQUENCE),
    "lattice in 8 bits": ("lattice.network:build", {"float8": "row", "distillation_head": True}, {}),
    "towers": ("dmt.model:build", {"towers": TOWERS, "module": {"kind": "dlrm", "compression": 2}}, {}),
    "towers before lattice": ("dmt.model:build", {"towers": 2, "over": "lattice.network:build"}, {}),
}


def export_case(run, state, dtype=None):
    """Returns (the program, its leaves, its tables)."""
    logical = run.exchange.export_tables(state.tables)
    trained = run.layout.stacks[0].dtype
    tables, arrays = [], []
    for name, table in logical.items():
        rows = table["rows"]
        tables.append(ServedTable(name, *rows.shape, dtype or trained))
        if (dtype or trained) == "int8":
            arrays.append(quantise_rows(rows.astype(np.float32)))
        else:
            arrays.append((to_bfloat16_bits(rows),) if (dtype or trained) == "bfloat16" else (rows,))
    served = flatten_network(run, state)
    program = export.deserialize(bytearray(export_program(served, tables, 2, {})))
    return program, [np.asarray(leaf) for leaf in served.leaves], arrays


def run_case(exported, batch):
    program, leaves, arrays = exported
    return np.asarray(jax.jit(program.call)(leaves, arrays, batch.dense, batch.ids, batch.domain, {}))


QUICK = ("narrow columns, two embeddings a value, means", "lattice with sequences and untied weights", "towers")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES]
)
def test_the_program_computes_what_the_predict_step_computes(case):
    factory, options, embeddings = CASES[case]
    run = build_served_run(factory, options, embeddings=embeddings)
    state = init_random_state(run)
    exported = export_case(run, state)
    assert exported[0].platforms == ("cpu", "cuda", "tpu")
    for rows in (1, 7) if case == QUICK[0] else (7,):
        batch = draw_served_batch(max(rows, 2), rows)
        batch = jax.tree.map(lambda array, rows=rows: array[:rows], batch)
        expected = np.asarray(run.predict_step(state.params, state.statistics, state.tables, batch))
        found = run_case(exported, batch)
        assert np.ptp(expected) > 1e-3
        # The same operations on the same numbers; the compiler may fuse them in another order.
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize(("dtype", "limit"), [("bfloat16", 2**-8), ("int8", 0.5 / 127)])
def test_the_program_reads_rounded_tables(dtype, limit):
    run = build_served_run("wukong_jax.models.fm:build", {}, embeddings={"initial_scale": 0.5})
    state = init_random_state(run)
    batch = draw_served_batch(50)
    rounded = dict(zip(run.exchange.export_tables(state.tables), export_case(run, state, dtype)[2], strict=True))
    logical = run.exchange.export_tables(state.tables)
    for name, arrays in rounded.items():
        rows = logical[name]["rows"]
        read = arrays[0].astype(np.float32) * arrays[1][:, None] if dtype == "int8" else None
        if read is None:  # bits of bfloat16 are the upper half of float32's
            read = (arrays[0].astype(np.uint32) << 16).view(np.float32)
        assert np.all(np.abs(read - rows) <= limit * np.abs(rows).max(axis=1, keepdims=True))
        logical[name]["rows"] = read
    moved = state.replace(tables=run.exchange.import_tables(logical))
    expected = np.asarray(run.predict_step(moved.params, moved.statistics, moved.tables, batch))
    np.testing.assert_allclose(run_case(export_case(run, state, dtype), batch), expected, rtol=2e-6, atol=1e-6)


def test_a_model_for_one_batch_size_is_one_line(monkeypatch):
    run = build_served_run("wukong_jax.models.fm:build", {})
    state = init_random_state(run)
    served = flatten_network(run, state)
    monkeypatch.setattr(type(served), "__call__", lambda self, leaves, values, batch: batch.dense[: len(batch.dense)])
    tables = [ServedTable(c, run.schema.vocabulary_rows()[c], 8, "float32") for c in run.schema.vocabulary_rows()]
    with pytest.raises(UserError, match=r"^--platforms = cpu: the model cannot be exported \(.*any number of rows$"):
        export_program(served, tables, 2, {}, ["cpu"])


def test_quantised_rows_keep_zeros_and_extremes():
    rows = np.array([[0, 0, 0], [1e-40, 0, 0], [-3, 3, 1.5], [1e38, -3e38, 0]], np.float32)
    whole, scales = quantise_rows(rows)
    assert whole.tolist() == [[0, 0, 0], [0, 0, 0], [-127, 127, 64], [42, -127, 0]]
    assert scales[0] == scales[1] == 0
    assert np.isfinite(scales).all()

"""Tests token assembly against a twin that loops over rows, columns and slots."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wukong_jax.embeddings.exchange import ReplicatedExchange
from wukong_jax.embeddings.layout import EmbeddingLayout, EmbeddingsConfig, FieldOverride, build_embedding_layout
from wukong_jax.embeddings.row_optimizers import RowOptimizer
from wukong_jax.embeddings.tables import export_tables, init_tables
from wukong_jax.embeddings.tokens import TokenAssembly
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source
from wukong_jax.sharding.mesh import build_mesh

B, D = 6, 4
SCHEMA = Schema(
    "mixed",
    Source("parquet"),
    labels=(LabelColumn("click"),),
    categorical=(
        CategoricalColumn("user", "identity", rows=10),
        CategoricalColumn("hour", "identity", rows=24),
        CategoricalColumn("tags", "identity", rows=7, separator="|", max_length=3),
        CategoricalColumn("words", "identity", rows=7, separator="|", max_length=3),
        CategoricalColumn("item", "identity", rows=30),
        CategoricalColumn("small", "identity", rows=5),
        CategoricalColumn("small_bag", "identity", rows=5, separator="|", max_length=2),
    ),
    sequences=(CategoricalColumn("clicked", separator=" ", max_length=4, vocabulary_of="item"),),
)
FIELDS = {
    "user": FieldOverride(count=2),
    "words": FieldOverride(pooling="mean"),
    "small": FieldOverride(width=3),
    "small_bag": FieldOverride(width=2, count=2, pooling="mean"),
    "item": FieldOverride(count=3),
    "clicked": FieldOverride(pooling="none"),
}


def build_layout(fields: dict[str, FieldOverride], hidden: tuple[int, ...] = ()) -> EmbeddingLayout:
    config = EmbeddingsConfig(D, RowOptimizer("sgd", 0.1), initial_scale=1.0, fields=fields, narrow_hidden=hidden)
    return build_embedding_layout(SCHEMA, config)


def draw_ids(layout: EmbeddingLayout) -> np.ndarray:
    rng = np.random.default_rng(0)
    ids = np.stack([rng.integers(-1, f.rows, B) for f in layout.fields for _ in range(f.length)], axis=1)
    ids[0], ids[1] = -1, np.maximum(ids[1], 0)  # one row of empty bags, one of full ones
    return ids.astype(np.int32)


def twin_tokens(layout: EmbeddingLayout, logical: dict, ids: np.ndarray, params: dict) -> tuple[np.ndarray, np.ndarray]:
    """Computes the tokens and their mask from the logical tables."""
    embeddings, mask = np.zeros((len(ids), layout.tokens, D)), np.zeros((len(ids), layout.tokens))
    for b in range(len(ids)):
        narrow: list[np.ndarray] = []
        narrow_present = False
        for field in layout.fields:
            table = logical[field.table]["rows"].astype(np.float64)
            bag = [int(i) for i in ids[b, field.slots[0] : field.slots[1]]]
            vectors = [table[i] if i >= 0 else np.zeros(table.shape[1]) for i in bag]
            present = [i >= 0 for i in bag]
            if field.pooling != "none":
                total = sum(vectors)
                if field.pooling == "mean" and any(present):
                    total = total / sum(present)
                vectors, present = [total], [any(present)]
            if field.narrow:
                narrow += vectors
                narrow_present |= any(present)
                continue
            token = field.tokens[0]
            for vector, is_present in zip(vectors, present, strict=True):
                for part in np.split(vector, field.count):
                    embeddings[b, token], mask[b, token] = part, is_present
                    token += 1
            assert token == field.tokens[1]
        if narrow:
            hidden = np.concatenate(narrow)
            for i in range(len(layout.narrow_hidden)):
                layer = params[f"narrow_hidden_{i}"]
                hidden = np.maximum(hidden @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"]), 0)
            layer = params["narrow_projection"]
            projected = hidden @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
            embeddings[b, layout.tokens - layout.narrow_tokens :] = projected.reshape(-1, D)
            mask[b, layout.tokens - layout.narrow_tokens :] = narrow_present
    return embeddings, mask


def build_case(fields: dict[str, FieldOverride], hidden: tuple[int, ...] = ()) -> tuple:
    layout = build_layout(fields, hidden)
    exchange = ReplicatedExchange(layout, build_mesh(1, 1))
    tables = init_tables(layout, jax.random.key(0))
    ids = draw_ids(layout)
    routed = exchange.route_ids(jnp.asarray(ids))
    rows = jax.jit(exchange.gather)(tables, routed)
    module = TokenAssembly(layout)
    variables = jax.jit(module.init)(jax.random.key(1), exchange.collect(rows, routed), jnp.asarray(ids))
    assemble = lambda rows: module.apply(variables, exchange.collect(rows, routed), jnp.asarray(ids))  # noqa: E731
    return layout, export_tables(layout, tables), ids, variables.get("params", {}), rows, assemble


@pytest.mark.parametrize(
    ("fields", "hidden"),
    [({}, ()), (FIELDS, (5,)), ({"user": FieldOverride(width=1)}, (3, 2))],
    ids=["plain", "mixed", "one_narrow"],
)
def test_tokens_equal_the_slow_twin(fields: dict[str, FieldOverride], hidden: tuple[int, ...]) -> None:
    layout, logical, ids, params, rows, assemble = build_case(fields, hidden)
    embeddings, mask = jax.jit(assemble)(rows)
    assert embeddings.shape == (B, layout.tokens, D)
    expected, expected_mask = twin_tokens(layout, logical, ids, params)
    np.testing.assert_array_equal(mask, expected_mask)
    # Float32 sums of at most 7 terms of size 1, and small products for narrow columns.
    np.testing.assert_allclose(embeddings, expected, rtol=1e-5, atol=1e-5)


def test_gradient_of_the_rows_equals_the_twins_differences() -> None:
    layout, logical, ids, params, rows, assemble = build_case(FIELDS)
    weights = np.random.default_rng(2).standard_normal((B, layout.tokens, D))
    gradients = jax.jit(jax.grad(lambda rows: jnp.sum(assemble(rows)[0] * weights)))(rows)
    # The tokens are linear in the rows here, so differences of the twin, one slot's number at a time, are exact.
    for field in layout.fields:
        stack = layout.stacks[field.stack]
        gradient = np.asarray(gradients[stack.name])[:, field.stack_slots[0] : field.stack_slots[1]]
        for b, slot in [(1, 0), (2, 0), (3, field.length - 1), (4, field.length // 2)]:
            i = ids[b, field.slots[0] + slot]
            if i < 0:
                continue
            expected = np.zeros(stack.width)
            for number in range(stack.width):
                moved = {name: {"rows": arrays["rows"].astype(np.float64)} for name, arrays in logical.items()}
                # A private copy of the table row for this slot alone, so that other slots of the value stay.
                table = np.vstack([moved[field.table]["rows"], moved[field.table]["rows"][i]])
                table[-1, number] += 1
                moved[field.table] = {"rows": table}
                own = ids[b : b + 1].copy()
                own[0, field.slots[0] + slot] = len(table) - 1
                after = twin_tokens(layout, moved, own, params)[0]
                before = twin_tokens(layout, logical, ids[b : b + 1], params)[0]
                expected[number] = np.sum((after - before) * weights[b])
            np.testing.assert_allclose(gradient[b, slot], expected, rtol=1e-4, atol=1e-5, err_msg=field.column)


def test_a_schema_without_ids_gives_no_tokens() -> None:
    schema = Schema("dense", Source("csv"), labels=(LabelColumn("click"),), dense=(DenseColumn("x"),))
    layout = build_embedding_layout(schema, EmbeddingsConfig(D, RowOptimizer("sgd", 0.1)))
    embeddings, mask = TokenAssembly(layout).apply({}, {}, jnp.zeros((3, 0), jnp.int32))
    assert (embeddings.shape, mask.shape) == ((3, 0, D), (3, 0))

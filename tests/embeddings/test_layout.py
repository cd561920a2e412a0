import dataclasses

import pytest

from wukong_jax.embeddings.layout import EmbeddingsConfig, FieldOverride, build_embedding_layout
from wukong_jax.embeddings.row_optimizers import RowOptimizer
from wukong_jax.errors import UserError
from wukong_jax.schema import CategoricalColumn, LabelColumn, Schema, Source
from wukong_jax.strict_mapping import build_dataclass

SGD = RowOptimizer("sgd", 0.1)
SCHEMA = Schema(
    "mixed",
    Source("parquet"),
    labels=(LabelColumn("click"),),
    categorical=(
        CategoricalColumn("user", "identity", rows=10),
        CategoricalColumn("tags", "identity", rows=7, separator="|", max_length=3),
        CategoricalColumn("hour", "identity", rows=24),
        CategoricalColumn("day", "identity", rows=8),
        CategoricalColumn("item", "identity", rows=50),
    ),
    sequences=(CategoricalColumn("clicked", vocabulary_of="item", separator=" ", max_length=4),),
)
CONFIG = EmbeddingsConfig(
    width=8,
    optimizer=SGD,
    fields={
        "user": FieldOverride(count=2),
        "hour": FieldOverride(width=3),
        "day": FieldOverride(width=6, initial_scale=0.5),
        "clicked": FieldOverride(pooling="none"),
    },
)


def test_tables_of_one_width_and_optimizer_share_a_stack() -> None:
    layout = build_embedding_layout(SCHEMA, CONFIG)
    assert {stack.tables: stack.width for stack in layout.stacks} == {
        ("user",): 16,
        ("tags", "item"): 8,
        ("hour",): 3,
        ("day",): 6,
    }
    shared = layout.stacks[1]
    assert (shared.table_rows, shared.first_rows, shared.rows, shared.slots) == ((7, 50), (0, 7), 57, 3 + 1 + 4)
    assert layout.stacks[3].initial_scales == (0.5,)
    assert layout.embedding_parameters == 10 * 16 + 57 * 8 + 24 * 3 + 8 * 6


def test_tokens_follow_the_schema_and_the_projection_comes_last() -> None:
    layout = build_embedding_layout(SCHEMA, CONFIG)
    tokens = {field.column: field.tokens for field in layout.fields}
    assert tokens == {
        "user": (0, 2),
        "tags": (2, 3),
        "hour": (8, 10),  # 3 + 6 narrow numbers make ceil(9 / 8) = 2 tokens
        "day": (8, 10),
        "item": (3, 4),
        "clicked": (4, 8),
    }
    assert layout.tokens == 10
    assert (layout.slots, layout.narrow_width, layout.narrow_tokens) == (11, 9, 2)


def test_shared_vocabulary_reads_the_same_rows() -> None:
    fields = {field.column: field for field in build_embedding_layout(SCHEMA, CONFIG).fields}
    item, clicked = fields["item"], fields["clicked"]
    assert (item.stack, item.first_row, item.rows) == (clicked.stack, clicked.first_row, clicked.rows)
    assert item.stack_slots == (3, 4)
    assert clicked.stack_slots == (4, 8)


def test_another_optimizer_makes_another_stack() -> None:
    config = dataclasses.replace(CONFIG, fields={"item": FieldOverride(optimizer=RowOptimizer("adagrad", 0.1))})
    layout = build_embedding_layout(SCHEMA, config)
    assert [stack.tables for stack in layout.stacks] == [("user", "tags", "hour", "day"), ("item",)]
    assert len({stack.name for stack in layout.stacks}) == 2


def test_layout_is_hashable() -> None:
    assert hash(build_embedding_layout(SCHEMA, CONFIG)) == hash(build_embedding_layout(SCHEMA, CONFIG))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"usr": FieldOverride()}, "fields.usr: no such id column"),
        ({"user": FieldOverride(width=16)}, r"fields.user.width = 16: at most the common width 8"),
        ({"clicked": FieldOverride(count=2)}, r"fields.clicked = .*set width, count.* in fields.item"),
        ({"user": FieldOverride(pooling="none")}, "the column holds one value"),
    ],
)
def test_impossible_overrides_are_refused_by_name(fields: dict[str, FieldOverride], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_embedding_layout(SCHEMA, dataclasses.replace(CONFIG, fields=fields))


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"kind": "adam", "learning_rate": 0.1}, "optimizer.kind = 'adam': not one of"),
        ({"kind": "sgd", "learning_rate": -1.0}, "learning_rate = -1.0: must be at least 0"),
        ({"kind": "adagrad", "learning_rate": 0.1, "epsilon": 0.0}, "epsilon = 0.0: must be above 0"),
        ({"kind": "sgd", "learning_rate": 0.1, "epsilon": 1e-3}, "epsilon = 0.001: has no effect with kind 'sgd'"),
        ({"kind": "sgd", "learning_rate": 0.1, "beta1": 0.5}, "beta1 = 0.5: has no effect with kind 'sgd'"),
        (
            {"kind": "lazy_adam", "learning_rate": 0.1, "initial_accumulator": 1.0},
            "initial_accumulator = 1.0: has no effect with kind 'lazy_adam'",
        ),
        ({"kind": "lazy_adam", "learning_rate": 0.1, "beta2": 1.0}, "beta2 = 1.0: must be at least 0 and below 1"),
        ({"kind": "sgd", "learning_rate": 0.1, "l2": float("nan")}, "l2 = nan: must be at least 0"),
    ],
)
def test_bad_optimizer_settings_are_refused_by_name(mapping: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_dataclass(EmbeddingsConfig, {"width": 8, "optimizer": mapping}, "config.embeddings")


def test_too_many_rows_for_one_stack_is_refused() -> None:
    column = CategoricalColumn("user", "identity", rows=2**31 - 1)
    with pytest.raises(UserError, match="hash to fewer rows"):
        build_embedding_layout(
            dataclasses.replace(SCHEMA, categorical=(column,), sequences=()), EmbeddingsConfig(8, SGD)
        )

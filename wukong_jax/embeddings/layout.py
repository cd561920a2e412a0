"""Defines the embedding layout, which assigns tables to stacks and columns to id slots and tokens.

It is built once from a resolved schema and the embeddings' config. It is static and hashable, so that traced functions
can close over it and Flax modules can have it as an attribute.

Tables with the same width, dtype and optimizer are *stacked*: one array holds their rows one after another. Each
vocabulary has one table. A column may override the embedding width `D`. With `count` embeddings per value, its table is
`count * D` wide and gives `count` tokens. *Narrow* columns (width below `D`) are concatenated and projected by an MLP
to `ceil(sum of narrow widths / D)` tokens of width `D`. This keeps the number of floats: fewer tokens would compress
the embeddings, more would only copy them. Tokens of columns of width `D` come first, in schema order, then the tokens
of the projection.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Annotated, Literal

from wukong_jax.embeddings.row_optimizers import RowOptimizer
from wukong_jax.errors import UserError
from wukong_jax.ranges import AtLeast
from wukong_jax.schema import CategoricalColumn, Schema

Pooling = Literal["sum", "mean", "none"]
# Limit for a table and for a device's stack. Row ids are int32, and ids from V up (one per slot) mean "no row".
MAX_STACK_ROWS = 2_000_000_000


@dataclasses.dataclass(frozen=True)
class FieldOverride:
    """Settings of one column; None means the common setting."""

    # width of one embedding; narrow columns (below D) are concatenated and projected
    width: Annotated[int | None, AtLeast(1)] = None
    count: Annotated[int, AtLeast(1)] = 1  # embeddings per value
    pooling: Literal["sum", "mean", "none"] | None = None  # "none": one vector per slot
    optimizer: RowOptimizer | None = None
    initial_scale: Annotated[float | None, AtLeast(0)] = None  # standard deviation of the initial rows


@dataclasses.dataclass(frozen=True)
class EmbeddingsConfig:
    """Settings of a model's embedding tables."""

    width: Annotated[int, AtLeast(1)]  # D, width of one embedding
    optimizer: RowOptimizer
    initial_scale: Annotated[float, AtLeast(0)] = 0.02  # standard deviation of the initial rows
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the rows; optimizer arrays are always float32
    pooling: Literal["sum", "mean"] = "sum"  # pooling of bags and sequences
    # by_length: a step reads the ids of pooled bags, rounded up to one of few sizes, if a single process trains;
    # padded: max_length in every row
    bags: Literal["by_length", "padded"] = "by_length"
    # by_length: rows are computed in parts of similar lengths of the sequences that are not pooled, if the model can
    # leave out absent events; padded: max_length in every row; None: by length on CPUs, if sequences are long
    sequences: Literal["by_length", "padded"] | None = None
    fields: Mapping[str, FieldOverride] = dataclasses.field(default_factory=dict)  # by column name
    # hidden widths of the MLP that projects narrow embeddings to D
    narrow_hidden: Annotated[tuple[int, ...], AtLeast(1)] = (128,)


@dataclasses.dataclass(frozen=True)
class TableStack:
    """Tables with the same width, dtype and optimizer, stacked by rows."""

    name: str
    width: int  # columns of a row: embedding width times embeddings per value
    dtype: Literal["float32", "bfloat16"]
    optimizer: RowOptimizer
    tables: tuple[str, ...]  # vocabulary names
    table_rows: tuple[int, ...]  # rows of each table
    first_rows: tuple[int, ...]  # each table's first row in the stack
    initial_scales: tuple[float, ...]
    slots: int  # id slots per batch row that read this stack
    vectors: int  # vectors per batch row after pooling

    @property
    def rows(self) -> int:
        """V, the rows of all tables; also the row id that means "no row"."""
        return sum(self.table_rows)


@dataclasses.dataclass(frozen=True)
class FieldPlacement:
    """The rows that a column reads and the tokens it gives. Ranges are (first, one past the last)."""

    column: str
    table: str
    stack: int  # position in `EmbeddingLayout.stacks`
    first_row: int  # first row of its table in the stack
    rows: int  # rows of its table
    slots: tuple[int, int]  # range in the batch's ids
    stack_slots: tuple[int, int]  # range in the stack's slots
    pooling: Pooling
    count: int  # embeddings per value
    tokens: tuple[int, int]  # range of its tokens; for a narrow column, of the projection's tokens
    narrow: bool

    @property
    def length(self) -> int:
        """Number of id slots of the column."""
        return self.slots[1] - self.slots[0]

    @property
    def pools(self) -> bool:
        """Whether several slots are pooled to one vector."""
        return self.length > 1 and self.pooling != "none"

    @property
    def vectors(self) -> int:
        """Number of vectors after pooling: 1, or one per slot without pooling."""
        return self.length if self.pooling == "none" else 1


@dataclasses.dataclass(frozen=True)
class EmbeddingLayout:
    """The layout of all tables and columns of a model."""

    stacks: tuple[TableStack, ...]
    fields: tuple[FieldPlacement, ...]  # in the order of the schema's slots
    tokens: int  # N
    width: int  # D
    slots: int  # S
    narrow_width: int  # input width of the projection of narrow columns; 0 if there is none
    narrow_tokens: int  # tokens of the projection, the last of the N
    narrow_hidden: tuple[int, ...]

    @property
    def embedding_parameters(self) -> int:
        """Number of parameters in all tables, excluding optimizer arrays."""
        return sum(stack.rows * stack.width for stack in self.stacks)

    @property
    def token_columns(self) -> tuple[str, ...]:
        """The column of each of the N tokens; empty for tokens of the projection of narrow columns."""
        columns = [""] * self.tokens
        for field in self.fields:
            if not field.narrow:
                columns[slice(*field.tokens)] = [field.column] * (field.tokens[1] - field.tokens[0])
        return tuple(columns)

    def fields_of_stack(self, stack: int) -> tuple[FieldPlacement, ...]:
        """Returns the columns that read a stack, in the order of its slots."""
        return tuple(field for field in self.fields if field.stack == stack)


def build_embedding_layout(schema: Schema, config: EmbeddingsConfig) -> EmbeddingLayout:
    """Builds the layout of all id columns of a schema.

    Args:
      schema: resolved schema.
      config: widths, poolings and optimizers.

    Returns:
      The layout.

    Raises:
      UserError: the schema is not resolved, or an override names no id column or has invalid values.
    """
    columns = {column.name: column for column in schema.id_columns}
    for name, override in config.fields.items():
        _check_override(name, override, columns, config.width)
    stacks, placement = _stack_tables(schema, config)
    fields = _place_fields(schema, config, placement)
    narrow_width = sum(
        field.vectors * stacks[field.stack].width for field in fields if field.narrow
    )  # a row of a stack holds all `count` embeddings of a value
    narrow_tokens = math.ceil(narrow_width / config.width)
    wide_tokens = sum(field.vectors * field.count for field in fields if not field.narrow)
    tokens = wide_tokens + narrow_tokens
    fields = [dataclasses.replace(f, tokens=(wide_tokens, tokens)) if f.narrow else f for f in fields]
    of_stack = [[field for field in fields if field.stack == index] for index in range(len(stacks))]
    return EmbeddingLayout(
        stacks=tuple(
            dataclasses.replace(stack, slots=sum(f.length for f in own), vectors=sum(f.vectors for f in own))
            for stack, own in zip(stacks, of_stack, strict=True)
        ),
        fields=tuple(fields),
        tokens=tokens,
        width=config.width,
        slots=schema.slots,
        narrow_width=narrow_width,
        narrow_tokens=narrow_tokens,
        narrow_hidden=config.narrow_hidden,
    )


def restrict_layout(layout: EmbeddingLayout, tables: Collection[str]) -> EmbeddingLayout:
    """Restricts a layout to some of its tables.

    Args:
      layout: the layout.
      tables: names of the tables to keep.

    Returns:
      A layout of these tables and their columns. Stacks keep their names and order, columns their slots in the batch,
      and tokens their positions in the full layout.
    """
    stacks: list[TableStack] = []
    fields: list[FieldPlacement] = []
    for index, stack in enumerate(layout.stacks):
        kept = [i for i, table in enumerate(stack.tables) if table in tables]
        if not kept:
            continue
        own = [field for field in layout.fields_of_stack(index) if field.table in tables]
        rows = [stack.table_rows[i] for i in kept]
        first_rows = {stack.tables[i]: sum(rows[:place]) for place, i in enumerate(kept)}
        slot = 0
        for field in own:
            slots = (slot, slot + field.length)
            first_row = first_rows[field.table]
            fields.append(dataclasses.replace(field, stack=len(stacks), first_row=first_row, stack_slots=slots))
            slot += field.length
        stacks.append(
            dataclasses.replace(
                stack,
                tables=tuple(stack.tables[i] for i in kept),
                table_rows=tuple(rows),
                first_rows=tuple(first_rows.values()),
                initial_scales=tuple(stack.initial_scales[i] for i in kept),
                slots=slot,
                vectors=sum(field.vectors for field in own),
            )
        )
    ordered = sorted(fields, key=lambda field: field.slots)
    return dataclasses.replace(layout, stacks=tuple(stacks), fields=tuple(ordered))


def _stack_tables(schema: Schema, config: EmbeddingsConfig) -> tuple[list[TableStack], dict[str, tuple[int, int, int]]]:
    """Returns the stacks, without slots and vectors, and (stack, first row, rows) by table name."""
    vocabulary_rows = schema.vocabulary_rows()
    groups: dict[tuple[int, RowOptimizer], list[str]] = {}
    for table in vocabulary_rows:
        override = config.fields.get(table, FieldOverride())
        width = (override.width or config.width) * override.count
        groups.setdefault((width, override.optimizer or config.optimizer), []).append(table)
    stacks, placement = [], {}
    for index, ((width, optimizer), tables) in enumerate(groups.items()):
        rows = [vocabulary_rows[table] for table in tables]
        first_rows = [sum(rows[:i]) for i in range(len(rows))]
        for table, count in zip(tables, rows, strict=True):
            if count > MAX_STACK_ROWS:
                raise UserError(f"rows = {count} of table {table!r}: at most {MAX_STACK_ROWS}; hash to fewer rows")
        scales = [config.fields.get(table, FieldOverride()).initial_scale for table in tables]
        stacks.append(
            TableStack(
                name=f"stack{index}_{optimizer.kind}_width{width}",
                width=width,
                dtype=config.dtype,
                optimizer=optimizer,
                tables=tuple(tables),
                table_rows=tuple(rows),
                first_rows=tuple(first_rows),
                initial_scales=tuple(config.initial_scale if scale is None else scale for scale in scales),
                slots=0,
                vectors=0,
            )
        )
        placement.update({t: (index, f, r) for t, f, r in zip(tables, first_rows, rows, strict=True)})
    return stacks, placement


def _place_fields(
    schema: Schema, config: EmbeddingsConfig, placement: Mapping[str, tuple[int, int, int]]
) -> list[FieldPlacement]:
    """Assigns slots and tokens to every column, except tokens of narrow columns, which the caller sets."""
    fields = []
    next_slot: dict[int, int] = {}
    next_token = 0
    for column, start, stop in schema.slot_ranges():
        stack, first_row, rows = placement[column.vocabulary]
        table = config.fields.get(column.vocabulary, FieldOverride())
        own = config.fields.get(column.name, FieldOverride())
        stack_slot = next_slot.get(stack, 0)
        next_slot[stack] = stack_slot + stop - start
        field = FieldPlacement(
            column=column.name,
            table=column.vocabulary,
            stack=stack,
            first_row=first_row,
            rows=rows,
            slots=(start, stop),
            stack_slots=(stack_slot, stack_slot + stop - start),
            pooling=own.pooling or config.pooling,
            count=table.count,
            tokens=(next_token, next_token),
            narrow=(table.width or config.width) < config.width,
        )
        if not field.narrow:
            next_token += field.vectors * field.count
            field = dataclasses.replace(field, tokens=(field.tokens[0], next_token))
        fields.append(field)
    return fields


def _check_override(
    name: str, override: FieldOverride, columns: Mapping[str, CategoricalColumn], common_width: int
) -> None:
    key = f"fields.{name}"
    if name not in columns:
        raise UserError(f"{key}: no such id column; known: {', '.join(columns)}")
    column = columns[name]
    if override.width is not None and override.width > common_width:
        raise UserError(
            f"{key}.width = {override.width}: at most the common width {common_width}; "
            "for a more important column raise count instead"
        )
    if column.vocabulary != name and override != FieldOverride(pooling=override.pooling):
        raise UserError(
            f"{key} = {override}: the column reads the table of {column.vocabulary!r}; "
            f"set width, count, optimizer and initial_scale in fields.{column.vocabulary}"
        )
    if override.pooling is not None and column.max_length == 1:
        raise UserError(f"{key}.pooling = {override.pooling!r}: the column holds one value; leave it out")

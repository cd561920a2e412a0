"""Builds the schema for compiling without data: the user gives the row counts of tables that data would size."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from wukong_jax.config import DataConfig, RunConfig, build_run_config
from wukong_jax.data.raw.builtin_schemas import find_schema
from wukong_jax.errors import UserError
from wukong_jax.schema import Schema, load_schema


def assume_run(
    mapping: ConfigDict, schema: str = "", data: str = "", table_rows: Sequence[int] = ()
) -> tuple[RunConfig, Schema]:
    """Builds a run's config and schema without its data.

    Args:
      mapping: the config as returned by its file.
      schema: see `choose_schema`.
      data: see `choose_schema`.
      table_rows: see `assume_rows`.

    Returns:
      The checked config, and the schema with all row counts.

    Raises:
      UserError: a value of the config is invalid, or as in `choose_schema` and `assume_rows`.
    """
    rows = mapping.get("data", ConfigDict())
    if (schema or data or table_rows) and rows.get("factory") in ("raw", "blocks") and not rows.get("path"):
        rows.path = "unread"  # a config without a path is invalid
    config = build_run_config(mapping)
    return config, assume_rows(choose_schema(config.data, schema, data), table_rows)


def choose_schema(config: DataConfig, schema: str = "", data: str = "") -> Schema:
    """Finds the schema of a run without reading any rows; row counts may still be missing.

    Args:
      config: the run's data config.
      schema: name of a built-in schema or path of a schema file; empty to use the config's schema.
      data: folder of prepared data to take the schema from; empty for none.

    Returns:
      The schema.

    Raises:
      UserError: both `schema` and `data` are given, or the schema cannot be read.
    """
    if schema and data:
        raise UserError(f"--schema = {schema!r}, --data = {data!r}: both name a schema; leave one out")
    if data:
        return load_schema(Path(data) / "schema.json")
    if schema:
        return find_schema(schema)
    return config.build_source().schema()


def assume_rows(schema: Schema, table_rows: Sequence[int]) -> Schema:
    """Fills in the row counts that would normally come from the data.

    Args:
      schema: a schema in which row counts may be missing.
      table_rows: one number for all tables without a row count, or one number for each of them in the schema's
        order; empty if no table lacks a row count.

    Returns:
      The schema with all row counts.

    Raises:
      UserError: `table_rows` has the wrong length, or the schema's domain values are known from data only.
    """
    if schema.domain is not None and not schema.domain_values:
        raise UserError(
            f"schema {schema.name!r}: the values of its domain {schema.domain!r} are known from data only; "
            "prepare some and give --data=FOLDER"
        )
    unknown = [column.name for column in schema.id_columns if column.rows is None and column.vocabulary_of is None]
    if len(table_rows) not in ({1, len(unknown)} if unknown else {0}):
        needed = f"one number, or {len(unknown)}: {', '.join(unknown)}" if unknown else "none, all rows are known"
        given = ",".join(map(str, table_rows))
        raise UserError(f"--table_rows = {given!r}: schema {schema.name!r} needs {needed}")
    rows = dict(zip(unknown, tuple(table_rows) * (len(unknown) if len(table_rows) == 1 else 1), strict=True))

    def fill(columns: tuple) -> tuple:
        return tuple(dataclasses.replace(c, rows=rows[c.name]) if c.name in rows else c for c in columns)

    return dataclasses.replace(schema, categorical=fill(schema.categorical), sequences=fill(schema.sequences))

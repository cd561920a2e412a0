"""The schema of several data sets in one: the union of their columns, labels and domains.

A column of one name is one column; it must be of the same kind in every data set that has it. What one raw column means
is not known here, so columns of one name with another meaning must be renamed by the user.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from wukong_jax.data.raw.row_encoder import index_domains
from wukong_jax.data.raw.translated_rows import list_domains
from wukong_jax.errors import UserError
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source, Split

DOMAIN = "data_set"  # name of the merged rows' domain column

_FIX = "rename it in one of them, such as --rename={source}:{column}=other_name"


def rename_columns(schema: Schema, names: Mapping[str, str], source: str) -> Schema:
    """Renames feature columns, labels and the group column of a schema.

    Args:
      schema: the schema.
      names: new names by the names so far.
      source: name of the data set, for messages.

    Raises:
      UserError: the schema has no such column, or two columns get one name.
    """
    known = _list_columns(schema) + _list_labels(schema)
    known += [schema.group] if schema.group is not None else []
    for name in names:
        if name not in known:
            raise UserError(f"--rename = {source}:{name}: no column or label of {source}; it has {', '.join(known)}")

    def rename(columns: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(dataclasses.replace(column, name=names.get(column.name, column.name)) for column in columns)

    def rename_ids(columns: Sequence[CategoricalColumn]) -> tuple[CategoricalColumn, ...]:
        return tuple(
            dataclasses.replace(column, vocabulary_of=names.get(column.vocabulary_of, column.vocabulary_of))
            if column.vocabulary_of is not None
            else column
            for column in rename(columns)
        )

    labels = tuple(
        dataclasses.replace(label, name=names.get(label.name, label.name), column=label.source_column)
        if label.name in names
        else label
        for label in schema.labels
    )
    if len({label.name for label in labels}) < len(labels):
        raise UserError(f"--rename: gives two labels of {source} one name; choose another")
    return dataclasses.replace(
        schema,
        dense=rename(schema.dense),
        categorical=rename_ids(schema.categorical),
        sequences=rename_ids(schema.sequences),
        labels=labels,
        group=names.get(schema.group, schema.group) if schema.group is not None else None,
    )


def merge_schemas(schemas: Mapping[str, Schema], training_rows: Mapping[str, int]) -> Schema:
    """Merges the schemas of several data sets.

    Columns and labels are in the order in which the data sets, one after another, first have them. Bags and sequences
    have the largest `max_length`, identity columns the largest `rows`, vocabularies the smallest `min_count`. A column
    with the transform standardise gets the mean and deviation of the training rows of all data sets that have it. The
    rows of vocabularies stay open. Timestamps are kept if all data sets have them, groups if all have a group column of
    one name, weights if any has them.

    Args:
      schemas: resolved schemas by the name of the data set, renamed where necessary.
      training_rows: number of training rows of each.

    Returns:
      The schema; its domain values are those of `list_domains`, and its source has no raw files.

    Raises:
      UserError: a column differs in kind, encoding or transform, or a data set's name is not usable.
    """
    for name in schemas:
        if not name or "/" in name:
            raise UserError(f"--inputs: {name!r} is no name of a data set; give one without a slash")
    _check_kinds(schemas)
    all_schemas = list(schemas.values())
    groups = {schema.group for schema in all_schemas}
    dated = all(schema.timestamp_columns for schema in all_schemas)
    splits = {schema.split for schema in all_schemas}
    merged = Schema(
        name="+".join(schemas),
        source=Source("merged"),
        labels=_merge_labels(schemas),
        split=splits.pop() if len(splits) == 1 else Split("file", train="train", validation="validation", test="test"),
        dense=_merge_dense(schemas, training_rows),
        categorical=_merge_ids({name: schema.categorical for name, schema in schemas.items()}),
        sequences=_merge_ids({name: schema.sequences for name, schema in schemas.items()}),
        domain=DOMAIN,
        domain_values=tuple(value for name, schema in schemas.items() for value in list_domains(name, schema)),
        timestamp=all_schemas[0].timestamp_columns[0] if dated else None,
        group=groups.pop() if len(groups) == 1 else None,
        weight=next((schema.weight for schema in all_schemas if schema.weight is not None), None),
    )
    index_domains(merged)
    return merged


def describe_differences(schemas: Mapping[str, Schema], merged: Schema) -> list[str]:
    """Lists in words what the data sets share, what only some of them have, and what is left out."""
    lines = []
    for kind, own in (("columns", _list_columns), ("labels", _list_labels)):
        held = {name: own(schema) for name, schema in schemas.items()}
        shared = [column for column in own(merged) if all(column in columns for columns in held.values())]
        lines.append(f"{kind} of all: {', '.join(shared) or 'none'}")
        for name, columns in held.items():
            others = [column for column in columns if column not in shared]
            if others:
                lines.append(f"{kind} of {name}, not of all: {', '.join(others)}")
    for what, kept, given in (
        ("timestamps", merged.timestamp, [name for name, schema in schemas.items() if schema.timestamp_columns]),
        ("groups", merged.group, [name for name, schema in schemas.items() if schema.group is not None]),
    ):
        if given and kept is None:
            lines.append(f"{what} of {', '.join(given)} left out: the others have none, or another column")
    return lines


def _list_columns(schema: Schema) -> list[str]:
    return [column.name for column in schema.dense] + [column.name for column in schema.id_columns]


def _list_labels(schema: Schema) -> list[str]:
    return [label.name for label in schema.labels]


def _check_kinds(schemas: Mapping[str, Schema]) -> None:
    """Checks that each name is a column of one kind in all data sets."""
    found: dict[str, tuple[str, str]] = {}
    for source, schema in schemas.items():
        kinds = {column.name: "a dense number" for column in schema.dense}
        kinds |= {c.name: "one value" if c.separator is None else "a bag of values" for c in schema.categorical}
        kinds |= {column.name: "a sequence" for column in schema.sequences}
        for column, kind in kinds.items():
            first, expected = found.setdefault(column, (source, kind))
            _check_same(column, first, expected, source, kind)


def _check_same(column: str, first: str, expected: Any, source: str, value: Any, what: str = "") -> None:
    if value != expected:
        fix = _FIX.format(source=source, column=column)
        raise UserError(f"column {column!r}: {what}{expected} in {first}, {what}{value} in {source}; {fix}")


def _merge_labels(schemas: Mapping[str, Schema]) -> tuple[LabelColumn, ...]:
    """Returns the union of the labels; which raw texts mean 1 may differ, but not a given threshold."""
    merged: dict[str, tuple[str, LabelColumn]] = {}
    for source, schema in schemas.items():
        for label in schema.labels:
            first, same = merged.setdefault(label.name, (source, label))
            if None not in (label.threshold, same.threshold):
                _check_same(label.name, first, same.threshold, source, label.threshold, "threshold = ")
    return tuple(label for _, label in merged.values())


def _group_columns(columns: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, Any]]:
    """Returns name of column -> data set -> column, in the order of first appearance."""
    grouped: dict[str, dict[str, Any]] = {}
    for source, own in columns.items():
        for column in own:
            grouped.setdefault(column.name, {})[source] = column
    return grouped


def _check_settings(columns: Mapping[str, Any], settings: Collection[str]) -> None:
    first, expected = next(iter(columns.items()))
    for source, column in columns.items():
        for key in settings:
            values = getattr(expected, key), getattr(column, key)
            _check_same(column.name, first, values[0], source, values[1], f"{key} = ")


def _merge_ids(columns: Mapping[str, Sequence[CategoricalColumn]]) -> tuple[CategoricalColumn, ...]:
    merged = []
    for own in _group_columns(columns).values():
        first = next(iter(own.values()))
        _check_settings(own, ("vocabulary_of", "encoding", "salt", "transform", "boundaries"))
        if first.encoding == "hash":
            _check_settings(own, ("rows",))
        identity = first.encoding == "identity"
        rows = max(column.rows or 0 for column in own.values()) if identity else first.rows
        merged.append(
            dataclasses.replace(
                first,
                rows=rows if first.vocabulary_of is None and first.encoding != "vocabulary" else None,
                min_count=min(column.min_count for column in own.values()),
                max_length=max(column.max_length for column in own.values()),
            )
        )
    return tuple(merged)


def _merge_dense(schemas: Mapping[str, Schema], training_rows: Mapping[str, int]) -> tuple[DenseColumn, ...]:
    merged = []
    for own in _group_columns({name: schema.dense for name, schema in schemas.items()}).values():
        first = next(iter(own.values()))
        _check_settings(own, ("transform", "missing_value", "boundaries"))
        if first.transform == "standardise":
            mean, deviation = pool_moments(
                [
                    (training_rows[name], column.mean or 0.0, column.standard_deviation or 0.0)
                    for name, column in own.items()
                ]
            )
            first = dataclasses.replace(first, mean=mean, standard_deviation=deviation)
        merged.append(first)
    return tuple(merged)


def pool_moments(moments: Sequence[tuple[int, float, float]]) -> tuple[float, float]:
    """Returns the mean and population standard deviation of several sets of rows together.

    Args:
      moments: number of rows, mean and population standard deviation of each; if mean and deviation are the same in
        all, exactly these are returned.
    """
    if len({moment[1:] for moment in moments}) == 1:
        return moments[0][1:]
    total = sum(rows for rows, _, _ in moments)
    mean = sum(rows * own for rows, own, _ in moments) / total
    variance = sum(rows * (deviation**2 + (own - mean) ** 2) for rows, own, deviation in moments) / total
    return mean, math.sqrt(variance)

"""Rows of one data set as rows of the merged schema: other ids, other places, and "no value" in columns it lacks.

A column that the data set lacks has no ids (-1 in all slots), as an empty bag has. A dense column that it lacks has the
number that an empty cell of that column has, `missing_value` after the transform, so that a network sees one number for
"not there". A label that it lacks is masked.
"""

from collections.abc import Mapping

import numpy as np

from wukong_jax.data.blocks.batch import Columns
from wukong_jax.data.raw.numeric_transforms import apply_transform, standardise
from wukong_jax.schema import DenseColumn, Schema


def list_domains(name: str, schema: Schema) -> tuple[str, ...]:
    """Returns the merged names of a data set's domains: its own name, or "name/domain" if it has domains."""
    return tuple(f"{name}/{value}" for value in schema.domain_values) if schema.domain is not None else (name,)


class RowTranslator:
    """Translates rows of one data set; holds the places and the ids."""

    def __init__(self, name: str, own: Schema, merged: Schema, id_tables: Mapping[str, np.ndarray]) -> None:
        """Prepares the translation.

        Args:
          name: name of the data set.
          own: schema of the data set, with columns named as in the merged schema.
          merged: the merged schema.
          id_tables: merged id of each id, by vocabulary, -1 last; vocabularies without a table keep their ids.
        """
        self._merged = merged
        self._first_domain = merged.domain_values.index(list_domains(name, own)[0])
        places = {column.name: index for index, column in enumerate(merged.dense)}
        self._dense = [(index, places[column.name]) for index, column in enumerate(own.dense)]
        self._moments = [
            (index, places[column.name], column, merged.dense[places[column.name]])
            for index, column in enumerate(own.dense)
            if column.transform == "standardise" and column != merged.dense[places[column.name]]
        ]
        self._absent = np.array([encode_absent(column) for column in merged.dense], np.float32)
        starts = {column.name: start for column, start, _ in merged.slot_ranges()}
        self._slots = [
            (slice(start, stop), slice(starts[column.name], starts[column.name] + stop - start), column.vocabulary)
            for column, start, stop in own.slot_ranges()
        ]
        self._tables = id_tables
        objectives = [label.name for label in merged.labels]
        self._labels = [objectives.index(label.name) for label in own.labels]

    def translate(self, columns: Columns) -> Columns:
        """Translates rows.

        Args:
          columns: arrays [rows, ...] of the data set's schema.

        Returns:
          Arrays [rows, ...] of the merged schema.
        """
        rows, merged = len(columns["labels"]), self._merged
        dense = np.repeat(self._absent[None], rows, axis=0)
        for own, place in self._dense:
            dense[:, place] = columns["dense"][:, own]
        for own, place, before, after in self._moments:
            dense[:, place] = _standardise_again(columns["dense"][:, own], before, after)
        ids = np.full((rows, merged.slots), -1, np.int32)
        for own_slots, slots, vocabulary in self._slots:
            found = columns["ids"][:, own_slots]
            ids[:, slots] = self._tables[vocabulary][found] if vocabulary in self._tables else found
        labels, mask = (np.zeros((rows, len(merged.labels)), np.float32) for _ in range(2))
        labels[:, self._labels], mask[:, self._labels] = columns["labels"], columns["label_mask"]
        return {
            "dense": dense,
            "ids": ids,
            "labels": labels,
            "label_mask": mask,
            "domain": columns["domain"] + np.int32(self._first_domain),
            "group": columns["group"] if merged.group is not None else np.zeros(rows, np.int32),
            "timestamp": columns["timestamp"] if merged.timestamp is not None else np.zeros(rows, np.int64),
            "weight": columns["weight"],
        }


def encode_absent(column: DenseColumn) -> float:
    """Returns the number of a dense column in rows without a value."""
    value = apply_transform(np.array([column.missing_value]), column.transform, column.boundaries)
    if column.transform == "standardise":
        value = standardise(value[:, None], np.array([column.mean]), np.array([column.standard_deviation]))[:, 0]
    return float(value[0])


def _standardise_again(values: np.ndarray, before: DenseColumn, after: DenseColumn) -> np.ndarray:
    """Maps numbers standardised by one mean and deviation to those standardised by another."""
    raw = values.astype(np.float64) * (before.standard_deviation or 0.0) + (before.mean or 0.0)
    return standardise(raw[:, None], np.array([after.mean]), np.array([after.standard_deviation]))[:, 0]

"""Resolves the schema of a log from its first period."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from wukong_jax.data.raw.canonical_values import canonicalise_texts
from wukong_jax.data.raw.row_encoder import index_domains
from wukong_jax.data.raw.training_counts import TrainingCounts
from wukong_jax.online.log_periods import LogPeriod
from wukong_jax.schema import CategoricalColumn, Schema


def resolve_log_schema(schema: Schema, period: LogPeriod, rows: Mapping[str, int]) -> Schema:
    """Fills in what later periods are encoded with: means, deviations and domains of a period, and rows of tables.

    Args:
      schema: the schema of the log.
      period: the first period.
      rows: rows of each table with a vocabulary.

    Returns:
      The resolved schema.
    """
    counts = TrainingCounts(schema)
    found: set[str] = set()
    for part in period.parts:
        counts.domains = set()  # codes of this part
        counts.add(part.encoded, np.ones(part.encoded.rows, bool))
        if part.domain_codes is not None:
            texts = canonicalise_texts(part.domain_codes.texts())
            found |= {texts[code] for code in counts.domains}
    dense = list(schema.dense)
    for index, (mean, deviation) in counts.moments().items():
        dense[index] = dataclasses.replace(dense[index], mean=float(mean), standard_deviation=float(deviation))

    def fill(column: CategoricalColumn) -> CategoricalColumn:
        return dataclasses.replace(column, rows=rows.get(column.name, column.rows))

    return dataclasses.replace(
        schema,
        dense=tuple(dense),
        categorical=tuple(map(fill, schema.categorical)),
        sequences=tuple(map(fill, schema.sequences)),
        domain_values=tuple(index_domains(schema)) or tuple(sorted(found)),
    )

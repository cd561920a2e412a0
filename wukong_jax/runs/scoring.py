"""Encodes new rows and predicts their probabilities, in input order."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from wukong_jax.data.blocks.batch import Columns
from wukong_jax.data.blocks.loader import batch_rows
from wukong_jax.data.raw.data_sets import load_data_set
from wukong_jax.data.raw.new_rows import build_frame, encode_frame, read_encoded_rows
from wukong_jax.data.raw.translated_rows import RowTranslator
from wukong_jax.errors import UserError
from wukong_jax.runs.evaluation import Predict, one_behind, predict_batches, predict_placed
from wukong_jax.runs.rows import RunData
from wukong_jax.runs.spread_batches import spread_batches
from wukong_jax.schema import Schema
from wukong_jax.sharding.mesh import batch_sharding
from wukong_jax.sharding.team import find_team
from wukong_jax.training.run import Run


def encode_rows(schema: Schema, data: RunData, rows: Any, data_set: str = "") -> Iterator[Columns]:
    """Encodes rows in the same way as the run's rows, including joined extras.

    Args:
      schema: the run's resolved schema.
      data: the run's data, whose vocabularies and join are used.
      rows: the path of a raw file, a frame, or a mapping of columns; see `build_frame`.
      data_set: of merged rows, the name of the data set whose raw rows these are; else empty.

    Raises:
      UserError: a column is missing, a value cannot be read, or the data set is not given or unknown.
    """
    encoded: Iterator[Columns]
    if schema.source.format == "merged":
        own = load_data_set(data.directory, data_set, schema)
        stored_as = {raw.name: now.name for raw, now in zip(own.raw.id_columns, own.renamed.id_columns, strict=True)}
        translator = RowTranslator(data_set, own.renamed, schema, {})
        encoded = (translator.translate(columns) for columns in _encode(own.raw, data, rows, stored_as))
    elif data_set:
        raise UserError(f"--data_set = {data_set}: the run's rows are not merged of several data sets; leave it out")
    else:
        encoded = _encode(schema, data, rows, {})
    return encoded if data.join is None else ({**columns, **data.join(columns)} for columns in encoded)


def _encode(schema: Schema, data: RunData, rows: Any, stored_as: Mapping[str, str]) -> Iterator[Columns]:
    dates = data.join is not None  # a join may look up by time
    if isinstance(rows, str | Path):
        return read_encoded_rows(
            schema, data.vocabulary, Path(rows), labels_required=False, dates=dates, stored_as=stored_as
        )
    return encode_frame(schema, data.vocabulary, build_frame(rows), dates=dates, stored_as=stored_as)


def score_rows(run: Run, predict: Predict, rows: Iterable[Columns]) -> Iterator[np.ndarray]:
    """Predicts encoded rows, including rows of weight 0.

    Where several processes share the mesh, all call this together. Only process 0 iterates over its rows, and sends
    each process its part of every batch.

    Yields:
      [n, O] float64 probabilities of the next n rows, in every process.
    """
    # Set all weights to 1, so that only padding has weight 0.
    chunks = ({**columns, "weight": np.ones_like(columns["weight"])} for columns in rows)
    batches = batch_rows(chunks, run.schema, run.evaluation_batch_size)
    if batch_sharding(run.mesh).is_fully_addressable:
        scored = predict_batches(predict, map(run.place_bags, batches), run.mesh)
    else:
        spread = spread_batches(run, batches if find_team().is_lead else iter(()))
        scored = one_behind((batch, logits) for batch, _, logits in predict_placed(predict, spread))
    for batch, logits in scored:
        yield expit(np.asarray(logits, np.float64)[batch.weight > 0])

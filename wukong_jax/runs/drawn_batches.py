"""Draws random batches of a run's rows; the first batches of a file would be biased, because files may be sorted."""

import contextlib
import itertools
from collections.abc import Iterator

from wukong_jax.data.blocks.batch import Batch
from wukong_jax.data.blocks.loader import Position, iterate_batches
from wukong_jax.runs.open_run import OpenRun


def draw_batches(opened: OpenRun, split: str, batches: int, seed: int = 0) -> Iterator[Batch]:
    """Yields batches of the run's evaluation batch size, drawn without replacement.

    Args:
      opened: the run.
      split: name of the split.
      batches: number of batches; fewer are drawn if the split has fewer.
      seed: seed of the order.
    """
    size, start = opened.run.evaluation_batch_size, Position(epoch=0, seed=seed, rows_consumed=0)
    source = opened.data.source(split)
    drawn = iterate_batches(source, opened.run.schema, size, position=start, shuffle=True, epochs=1)
    with contextlib.closing(drawn):
        yield from (batch for batch, _ in itertools.islice(drawn, batches))

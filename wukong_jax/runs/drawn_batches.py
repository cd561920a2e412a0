"""Some batches of a finished run's rows, drawn at random: files may be sorted."""

import contextlib
import itertools
from collections.abc import Iterator

from wukong_jax.data.blocks.batch import Batch
from wukong_jax.data.blocks.loader import Position, iterate_batches
from wukong_jax.runs.open_run import OpenRun


def draw_batches(opened: OpenRun, split: str, batches: int, seed: int = 0) -> Iterator[Batch]:
    """Batches of the size that a run evaluates by, drawn without repetition.

    Args:
      opened: the run.
      split: of its rows.
      batches: how many; fewer where the split ends.
      seed: of the order.
    """
    size, start = opened.run.config.training.evaluation_batch_size, Position(epoch=0, seed=seed, rows_consumed=0)
    source = opened.data.source(split)
    drawn = iterate_batches(source, opened.run.schema, size, position=start, shuffle=True, epochs=1)
    with contextlib.closing(drawn):
        yield from (batch for batch, _ in itertools.islice(drawn, batches))

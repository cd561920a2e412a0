"""Sums the labels of prepared rows: positives and observed labels by domain and objective, and the classes present."""

import numpy as np

from wukong_jax.data.blocks.batch import Columns
from wukong_jax.data.blocks.loader import BlockSource
from wukong_jax.data.blocks.row_blocks import RowBlocks


def sum_labels(blocks: RowBlocks) -> np.ndarray:
    """Sums the labels of a split in one pass over its blocks.

    Args:
      blocks: rows of the split.

    Returns:
      [G, O, 2] float64: the weight of positive labels and of all observed labels. Rows of weight 0 and masked labels do
      not count; a fractional label y counts as weight y of a positive.
    """
    domains, objectives = max(1, len(blocks.schema.domain_values)), len(blocks.schema.labels)
    sums = np.zeros((domains, objectives, 2))
    for index in range(blocks.num_blocks):
        add_labels(sums, blocks.read(index))
    return sums


def add_labels(sums: np.ndarray, columns: Columns) -> None:
    """Adds the labels of some rows to sums as of `sum_labels`, in place.

    Args:
      sums: [G, O, 2] float64.
      columns: columns as in a block.
    """
    domains, objectives, _ = sums.shape
    mass = columns["weight"][:, None].astype(np.float64) * columns["label_mask"]
    positive = np.where(mass > 0, mass * columns["labels"], 0.0)
    for objective in range(objectives):
        for place, values in enumerate((positive[:, objective], mass[:, objective])):
            sums[:, objective, place] += np.bincount(columns["domain"], values, minlength=domains)


def find_label_classes(source: BlockSource, objectives: int) -> np.ndarray:
    """Finds which classes of labels a split has; reads only as many blocks as it takes to see both of each objective.

    Args:
      source: rows of the split.
      objectives: O.

    Returns:
      [O, 2] bool: whether there is an observed negative and an observed positive label, in rows of weight above 0. A
      fractional label is both.
    """
    found = np.zeros((objectives, 2), bool)
    for index in range(source.num_blocks):
        columns = source.read(index)
        counted = (columns["weight"][:, None] > 0) & (columns["label_mask"] > 0)
        found[:, 0] |= (counted & (columns["labels"] < 1)).any(axis=0)
        found[:, 1] |= (counted & (columns["labels"] > 0)).any(axis=0)
        if found.all():
            break
    return found

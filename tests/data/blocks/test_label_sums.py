"""Tests label sums of prepared rows against a loop over rows."""

import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wukong_jax.data.blocks.label_sums import find_label_classes, sum_labels

LABELS = st.sampled_from([0.0, 1.0, 0.25])
ROWS = st.tuples(
    st.lists(LABELS, min_size=2, max_size=2),
    st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=2),
    st.integers(0, 2),
    st.sampled_from([0.0, 0.5, 3.0]),
)


class Blocks:
    """Blocks in memory; counts the reads."""

    def __init__(self, blocks, domains=3, objectives=2):
        self.schema = types.SimpleNamespace(domain_values=("x",) * domains, labels=("y",) * objectives)
        self._blocks, self.num_blocks, self.reads = blocks, len(blocks), 0

    def read(self, index):
        self.reads += 1
        labels, mask, domain, weight = zip(*self._blocks[index], strict=True)
        return {
            "labels": np.array(labels, np.float32),
            "label_mask": np.array(mask, np.float32),
            "domain": np.array(domain, np.int32),
            "weight": np.array(weight, np.float32),
        }


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(ROWS, min_size=1, max_size=6), min_size=1, max_size=4))
def test_sums_and_classes_equal_a_loop_over_rows(blocks):
    sums, classes = np.zeros((3, 2, 2)), np.zeros((2, 2), bool)
    for labels, mask, domain, weight in (row for block in blocks for row in block):
        for objective in range(2):
            if weight > 0 and mask[objective] > 0:
                sums[domain, objective] += weight * labels[objective], weight
                classes[objective] |= [labels[objective] < 1, labels[objective] > 0]
    np.testing.assert_allclose(sum_labels(Blocks(blocks)), sums, rtol=1e-12)
    np.testing.assert_array_equal(find_label_classes(Blocks(blocks), 2), classes)


def test_labels_that_do_not_count_may_be_anything():
    blocks = [[([np.nan, 1.0], [0.0, 1.0], 0, 1.0), ([np.nan, np.nan], [1.0, 1.0], 0, 0.0)]]
    np.testing.assert_array_equal(sum_labels(Blocks(blocks, domains=1))[0], [[0, 0], [1, 1]])
    np.testing.assert_array_equal(find_label_classes(Blocks(blocks), 2), [[False, False], [False, True]])


@pytest.mark.parametrize(("second", "reads"), [(0.0, 3), (1.0, 2)])
def test_classes_are_looked_for_only_until_both_are_seen(second, reads):
    rows = [[([label, label], [1.0, 1.0], 0, 1.0)] for label in (0.0, second, 0.0)]
    blocks = Blocks(rows)
    find_label_classes(blocks, 2)
    assert blocks.reads == reads

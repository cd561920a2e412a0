"""Tests consolidation: paired differences against a slow twin, the criterion for "worse", sums of capacities."""

import math
import statistics

import numpy as np
import pytest

from lattice.portfolios.comparison import Served, describe
from lattice.portfolios.consolidation import Capacity, add_capacities, compare_portfolios


def test_differences_are_paired_by_seed():
    rng = np.random.default_rng(0)
    alone = {name: rng.uniform(0.7, 0.9, 5).tolist() for name in ("shop/click", "news/click")}
    together = {name: [value + rng.normal(0, 0.01) for value in values] for name, values in alone.items()}
    for one in compare_portfolios(alone, together):
        pairs = [b - a for a, b in zip(alone[one.portfolio], together[one.portfolio], strict=True)]
        assert one.difference == pytest.approx(sum(pairs) / 5)
        assert one.standard_error == pytest.approx(statistics.stdev(pairs) / math.sqrt(5))
        assert one.alone == pytest.approx(statistics.mean(alone[one.portfolio]))
        assert one.together == pytest.approx(statistics.mean(together[one.portfolio]))


@pytest.mark.parametrize(
    ("differences", "worse"),
    [
        ([0.0006, 0.0007, 0.0008], False),  # below 0.1 % of 0.8, though far from 0 by its standard error
        ([0.0011, 0.0012, 0.0013], True),
        ([0.000, 0.002, 0.004], False),  # within two standard errors: 0.0023
        ([-0.1, -0.1, -0.1], False),
        ([0.0012], True),  # one seed: no error to hide behind
        ([math.nan, 0.0, 0.0], True),  # diverged
    ],
)
def test_worse_is_beyond_a_thousandth_and_two_standard_errors(differences, worse):
    alone = [0.8] * len(differences)
    (one,) = compare_portfolios({"a/o": alone}, {"a/o": [0.8 + d for d in differences]})
    assert one.worse is worse
    assert math.isnan(one.standard_error) == (len(differences) == 1 or math.isnan(differences[0]))


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="portfolios differ"):
        compare_portfolios({"a/o": [0.8]}, {"b/o": [0.8]})
    for own in ([0.8], [0.8, 0.9]):
        with pytest.raises(ValueError, match=f"a/o: {len(own)} and 3 seeds"):
            compare_portfolios({"a/o": own}, {"a/o": [0.8, 0.9, 1.0]})


def test_a_loss_that_is_not_there_counts_as_worse():
    (one,) = compare_portfolios({"a/o": [0.8, None]}, {"a/o": [0.7, 0.7]})
    assert math.isnan(one.difference)
    assert one.worse


def test_labels_of_one_class_make_no_portfolio_worse_and_leave_the_mean():
    alone, together = {"a/o": [None, None], "b/o": [0.8, 0.8]}, {"a/o": [None, None], "b/o": [0.9, 0.7]}
    undefined, defined = compare_portfolios(alone, together)
    assert math.isnan(undefined.difference)
    assert not undefined.worse
    capacity = Capacity(1.0, 1)
    sides = (
        Served({name: {"normalized_entropy": values} for name, values in side.items()}, capacity)
        for side in (together, alone)
    )
    row = describe(*sides)
    assert (row["mean_difference"], row["compared_portfolios"]) == (defined.difference, 1)


def test_capacities_add_by_traffic():
    models = {"a": Capacity(100.0, 10), "b": Capacity(300.0, 20)}
    total = add_capacities(models, {"a": 0.75, "b": 0.5})
    assert total == Capacity(0.75 * 100 + 0.5 * 300, 30)
    assert Capacity(112.5, 24).saving_from(total) == (0.5, pytest.approx(0.2))

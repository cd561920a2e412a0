"""Tests transforms against their formulas, one number at a time."""

import math

import numpy as np
import pytest

from wukong_jax.data.raw.numeric_transforms import RunningMoments, apply_transform, standardise

VALUES = np.array([-3.0, -0.5, 0.0, 0.4, 1.0, 1.9, 2.0, 2.1, 3.0, 7.0, 1e3, 1e9])


def log1p_twin(x):
    return math.log(1 + (x if x > 0 else 0))


def criteo_log_twin(x):
    return float(math.floor(math.log(x) ** 2)) if x > 2 else float(int(x))


def bucketise_twin(x):
    return float(sum(boundary <= x for boundary in (0.0, 2.0, 100.0)))


@pytest.mark.parametrize(
    ("transform", "twin", "boundaries"),
    [
        ("none", float, ()),
        ("log1p", log1p_twin, ()),
        ("criteo_log", criteo_log_twin, ()),
        ("bucketise", bucketise_twin, (0.0, 2.0, 100.0)),
    ],
)
def test_transform_equals_twin(transform, twin, boundaries):
    got = apply_transform(VALUES, transform, boundaries)
    # 1e-12: two library logarithms may differ in the last bits of float64.
    np.testing.assert_allclose(got, [twin(x) for x in VALUES], rtol=1e-12)


def test_running_moments_do_not_depend_on_chunks():
    rng = np.random.default_rng(0)
    values = rng.normal(1e6, 1.0, (1000, 3)) * [1.0, 0.0, 1e-3]
    moments = RunningMoments(3)
    for chunk in np.split(values, [0, 1, 400, 999]):
        moments.add(chunk)
    for index in range(3):
        mean, deviation = moments.column(index)
        assert mean == pytest.approx(values[:, index].mean(), rel=1e-12)
        # 1e-9: the mean is a million deviations, which a plain sum of squares would not survive.
        assert deviation == pytest.approx(values[:, index].std(), rel=1e-9, abs=1e-12)


def test_standardise_of_a_constant_is_zero():
    values = np.array([[5.0, 1.0], [5.0, 3.0]])
    got = standardise(values, values.mean(axis=0), values.std(axis=0))
    np.testing.assert_array_equal(got, [[0.0, -1.0], [0.0, 1.0]])

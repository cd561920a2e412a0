import itertools

import numpy as np
import pytest

from dmt.partition.balanced_kmeans import SizeLimits, cluster_balanced
from wukong_jax.errors import UserError

# Rows of the 26 Criteo tables that the paper's model has: five hold nearly all.
CRITEO_ROWS = (
    *(45833188, 36746, 17245, 7413, 20243, 3, 7114, 1441, 62, 29275261, 1572176, 345138, 10, 2209, 11267, 128, 4, 974),
    *(14, 48937457, 11316796, 40094537, 452104, 12606, 104, 35),
)


def draw_points(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 2))


def inertia_of(points, labels):
    return sum(((points[labels == c] - points[labels == c].mean(axis=0)) ** 2).sum() for c in set(labels))


@pytest.mark.parametrize(("count", "clusters"), [(26, 8), (26, 4), (26, 16), (26, 26), (16, 4), (5, 1), (7, 3)])
def test_cluster_sizes_are_floor_or_ceil(count, clusters):
    points = draw_points(count)
    labels, inertia = cluster_balanced(points, clusters, restarts=4)
    sizes = np.bincount(labels, minlength=clusters)
    assert len(sizes) == clusters
    assert (sizes.min(), sizes.max()) == (count // clusters, -(-count // clusters))
    assert inertia == pytest.approx(inertia_of(points, labels), rel=1e-9, abs=1e-12)  # float64 sums


def test_the_best_of_all_balanced_clusterings_is_found():
    """7 points into 3 clusters of 2, 2 and 3, every labelling tried."""
    points = draw_points(7, seed=1)
    every = (np.array(labels) for labels in itertools.product(range(3), repeat=7))
    best = min(inertia_of(points, labels) for labels in every if sorted(np.bincount(labels, minlength=3)) == [2, 2, 3])
    _, inertia = cluster_balanced(points, 3, restarts=32)
    assert inertia == pytest.approx(best, rel=1e-9)  # float64 sums


def test_a_seed_gives_the_same_clusters_again():
    points = draw_points(26)
    weights = SizeLimits("bytes", tuple(np.random.default_rng(1).lognormal(0, 1, 26)), 0.2)
    for limits in (None, weights):
        first, second = (cluster_balanced(points, 5, limits, restarts=2, seed=3)[0] for _ in range(2))
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("tolerance", [0.05, 0.3])
def test_no_cluster_is_heavier_than_the_tolerance_allows(tolerance):
    points, weights = draw_points(24), np.random.default_rng(2).lognormal(0, 1, 24) * 1e9
    limits = SizeLimits("bytes", tuple(weights), tolerance)
    labels, _ = cluster_balanced(points, 4, limits, restarts=2)
    loads = np.bincount(labels, weights, 4)
    assert loads.min() > 0
    assert loads.max() <= (1 + tolerance) * weights.sum() / 4 * (1 + 1e-6)  # the solver's tolerance


def test_weights_of_tables_that_no_tower_can_share_are_refused_with_numbers():
    limits = SizeLimits("bytes", tuple(float(rows) for rows in CRITEO_ROWS), 0.1)
    with pytest.raises(
        UserError, match=r"tolerance = 0\.1: allows 24,467,338 bytes.*alone: 48,937,457.*tolerance 1\.21"
    ):
        cluster_balanced(draw_points(26), 8, limits)
    # what the message offers is enough
    labels, _ = cluster_balanced(draw_points(26), 8, SizeLimits("bytes", limits.weights, 1.21), restarts=1)
    assert np.bincount(labels, CRITEO_ROWS).max() <= 2.21 * sum(CRITEO_ROWS) / 8


def test_points_kept_together_share_a_cluster():
    points = draw_points(12)
    together = [[0, 7], [7, 3], [5, 11]]
    labels, _ = cluster_balanced(points, 4, keep_together=together, restarts=4)
    assert len({labels[0], labels[7], labels[3]}) == 1
    assert labels[5] == labels[11]
    assert set(np.bincount(labels)) == {3}


@pytest.mark.parametrize(
    ("clusters", "together", "message"),
    [
        (5, [], "towers = 5: at most 4"),
        (3, [[0, 1], [2, 3]], "towers = 3: at most 2"),
        (2, [[0, 1, 2]], "largest group has 3.*towers of 2 to 2 columns cannot"),
    ],
)
def test_impossible_sizes_are_refused(clusters, together, message):
    with pytest.raises(UserError, match=message):
        cluster_balanced(draw_points(4), clusters, keep_together=together)


def test_bad_limits_are_refused():
    with pytest.raises(UserError, match=r"tolerance = -0\.1"):
        SizeLimits("ids", (1.0, 2.0), -0.1)
    with pytest.raises(UserError, match="bytes: each at least 0"):
        SizeLimits("bytes", (0.0, 0.0))

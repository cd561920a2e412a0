import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmt.partition.balanced_kmeans import SizeLimits
from dmt.partition.partitioner import (
    PartitionOptions,
    compute_affinity,
    compute_affinity_sums,
    compute_agreement,
    compute_contrast,
    compute_distances,
    compute_stress,
    lay_out,
    partition_columns,
)
from wukong_jax.errors import UserError

WIDTH, ROWS = 16, 1000
FEW = PartitionOptions(towers=8, steps=600, layouts=4, restarts=8)  # of seconds


def draw_planted(columns=26, groups=8, noise=0.5, seed=0):
    """Draws embeddings [B, F, D] whose columns share directions (3 of 16) only within a group, and the groups [F]."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(columns) % groups)
    bases = [np.linalg.qr(random.normal(size=(WIDTH, 3)))[0] for _ in range(groups)]
    own = [random.normal(size=(ROWS, 3)) @ bases[label].T for label in labels]
    embeddings = np.stack(own, axis=1) + noise * random.normal(size=(ROWS, columns, WIDTH))
    return embeddings.astype(np.float32), labels


def measure(embeddings, order="mean_of_abs"):
    return compute_affinity(compute_affinity_sums(jnp.asarray(embeddings), jnp.ones(len(embeddings))), order)


def label_towers(partition, columns):
    return [next(i for i, tower in enumerate(partition.towers) if column in tower) for column in range(columns)]


def slow_affinity(embeddings, weight, order):
    """Computes the affinity row by row and pair by pair."""
    columns = embeddings.shape[1]
    affinity = np.eye(columns)
    for i, j in itertools.permutations(range(columns), 2):
        cosines = []
        for row in range(len(embeddings)):
            a, b = embeddings[row, i].astype(float), embeddings[row, j].astype(float)
            if weight[row] > 0 and np.any(a) and np.any(b):
                cosines.append(a @ b / math.sqrt(a @ a) / math.sqrt(b @ b))
        if cosines:
            mean = np.mean(np.abs(cosines)) if order == "mean_of_abs" else abs(np.mean(cosines))
            affinity[i, j] = mean
    return affinity


@pytest.mark.parametrize("order", ["mean_of_abs", "abs_of_mean"])
def test_the_affinity_is_the_mean_cosine_over_rows_in_which_both_columns_have_an_embedding(order):
    random = np.random.default_rng(0)
    embeddings = random.normal(size=(40, 5, 3)).astype(np.float32)
    embeddings[random.random((40, 5)) < 0.3] = 0
    embeddings[:20, 3] = 0
    embeddings[20:, 4] = 0  # 3 and 4 never meet
    weight = (random.random(40) < 0.8).astype(np.float32)
    halves = [
        compute_affinity_sums(jnp.asarray(embeddings[p]), jnp.asarray(weight[p])) for p in (slice(20), slice(20, 40))
    ]
    affinity = compute_affinity(jax.tree.map(jnp.add, *halves), order)
    expected = slow_affinity(embeddings, weight, order)
    assert expected[3, 4] == 0
    np.testing.assert_allclose(affinity, expected, atol=1e-6)  # float32 sums of 40 cosines


def test_distances_fill_0_to_1_and_keep_the_order_of_affinities():
    affinity = measure(draw_planted()[0])
    pairs = np.triu_indices(len(affinity), k=1)
    coherent, diverse = compute_distances(affinity, "coherent"), compute_distances(affinity, "diverse")
    for distances, order in ((coherent, -affinity), (diverse, affinity)):
        assert (distances[pairs].min(), distances[pairs].max()) == (0, 1)
        np.testing.assert_array_equal(np.argsort(distances[pairs]), np.argsort(order[pairs]))
        assert not distances.diagonal().any()
    np.testing.assert_allclose((coherent + diverse)[pairs], 1)
    assert not compute_distances(np.full((3, 3), 0.4) + 0.6 * np.eye(3), "coherent")[0, 1] - 0.5


def test_the_stress_is_that_of_its_definition_and_differentiable_where_positions_meet():
    random = np.random.default_rng(0)
    positions, distances = random.normal(size=(6, 3)), random.random((6, 6))
    expected = sum(
        (math.dist(positions[i], positions[j]) - distances[i, j]) ** 2 for i, j in itertools.combinations(range(6), 2)
    )
    assert float(compute_stress(jnp.asarray(positions), distances)) == pytest.approx(expected, rel=1e-5)  # float32
    assert np.isfinite(jax.grad(compute_stress)(jnp.zeros((6, 3)), distances)).all()


def test_distances_of_points_in_a_plane_are_laid_out_exactly():
    points = np.random.default_rng(1).random((10, 2))
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    positions, stress = lay_out(distances, 2, FEW)
    assert stress < 1e-4
    laid = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    np.testing.assert_allclose(laid, distances, atol=0.01)  # the root of the stress


def test_planted_groups_are_found_by_coherent_towers_and_parted_by_diverse_ones():
    embeddings, labels = draw_planted()
    affinity = measure(embeddings)
    coherent = partition_columns(affinity, FEW)
    assert compute_agreement(label_towers(coherent, 26), labels) == 1
    diverse = partition_columns(affinity, dataclasses.replace(FEW, strategy="diverse"))
    within, between = compute_contrast(affinity, coherent.towers)
    diverse_within, diverse_between = compute_contrast(affinity, diverse.towers)
    assert within > 1.15 * between
    assert diverse_within < diverse_between


def test_the_literal_order_of_mean_and_absolute_value_sees_no_groups_in_independent_columns():
    """Why it is not the default: the signal is in the spread of the cosines, not in their mean."""
    embeddings, labels = draw_planted()
    groups = [np.flatnonzero(labels == group) for group in range(8)]
    within, between = compute_contrast(measure(embeddings, "abs_of_mean"), groups)
    # Means of 1000 cosines of deviation 0.3 scatter by 0.01; mean_of_abs parts them by 0.03 or more.
    assert abs(within - between) < 0.01
    within, between = compute_contrast(measure(embeddings), groups)
    assert within - between > 0.03


def test_the_grouping_does_not_depend_on_the_order_of_the_columns():
    embeddings, _ = draw_planted(columns=16, groups=4)
    options = dataclasses.replace(FEW, towers=4)
    first = label_towers(partition_columns(measure(embeddings), options), 16)
    order = np.random.default_rng(5).permutation(16)
    second = label_towers(partition_columns(measure(embeddings[:, order]), options), 16)
    assert compute_agreement(np.array(first)[order], second) == 1


def test_a_partition_is_the_same_for_the_same_seed():
    affinity = measure(np.random.default_rng(0).normal(size=(50, 12, 4)).astype(np.float32))  # nothing to find
    options = PartitionOptions(towers=5, steps=50, layouts=2, restarts=2, seed=3)
    first, again = partition_columns(affinity, options), partition_columns(affinity, options)
    assert first.towers == again.towers
    np.testing.assert_array_equal(first.positions, again.positions)
    other = partition_columns(affinity, dataclasses.replace(options, seed=4))
    assert not np.array_equal(first.positions, other.positions)


def test_towers_hold_every_column_once_and_are_ordered_by_their_first():
    partition = partition_columns(measure(draw_planted()[0]), dataclasses.replace(FEW, steps=50))
    assert sorted(column for tower in partition.towers for column in tower) == list(range(26))
    assert sorted(len(tower) for tower in partition.towers) == [3] * 6 + [4] * 2
    assert [tower[0] for tower in partition.towers] == sorted(min(tower) for tower in partition.towers)


def test_weights_bound_the_towers_and_bound_columns_stay_together():
    affinity = measure(draw_planted(columns=12, groups=3)[0])
    weights = np.random.default_rng(0).lognormal(0, 0.7, 12)
    options = PartitionOptions(towers=3, steps=100, layouts=2, restarts=2)
    limits = SizeLimits("bytes", tuple(weights), 0.2)
    partition = partition_columns(affinity, options, limits=limits, keep_together=[[2, 9]])
    assert max(weights[list(tower)].sum() for tower in partition.towers) <= 1.2 * weights.sum() / 3 + 1e-6
    assert any({2, 9} <= set(tower) for tower in partition.towers)


def test_the_layout_has_room_for_equally_distant_towers():
    assert [PartitionOptions(towers=towers).layout_dimensions for towers in (2, 8, 16)] == [8, 8, 15]
    assert PartitionOptions(towers=16, dimensions=2).layout_dimensions == 2
    partition = partition_columns(np.eye(3), PartitionOptions(towers=2, dimensions=3, steps=5, layouts=1))
    assert (partition.positions.shape, partition.plane.shape) == ((3, 3), (3, 2))


def slow_agreement(labels, others):
    """Computes Hubert and Arabie's index from counts of pairs."""
    pairs = list(itertools.combinations(range(len(labels)), 2))
    first = np.array([labels[i] == labels[j] for i, j in pairs])
    second = np.array([others[i] == others[j] for i, j in pairs])
    expected = first.mean() * second.mean()
    return ((first & second).mean() - expected) / ((first.mean() + second.mean()) / 2 - expected)


def test_the_agreement_is_the_adjusted_rand_index():
    random = np.random.default_rng(0)
    labels, others = random.integers(0, 3, 20), random.integers(0, 4, 20)
    assert compute_agreement(labels, others) == pytest.approx(slow_agreement(labels, others))
    assert compute_agreement(labels, 2 - labels) == 1
    assert compute_agreement([0, 0, 0], [0, 0, 0]) == 1


def test_the_contrast_is_the_mean_affinity_inside_and_between_towers():
    affinity = np.array([[1, 0.9, 0.1], [0.9, 1, 0.3], [0.1, 0.3, 1]])
    assert compute_contrast(affinity, [(0, 1), (2,)]) == pytest.approx((0.9, 0.2))
    assert math.isnan(compute_contrast(affinity, [(0,), (1,), (2,)])[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"towers": 0}, "towers = 0"),
        ({"dimensions": 0}, "dimensions = 0"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"seed": -1}, "seed = -1"),
    ],
)
def test_impossible_options_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(FEW, **change)

import time
import tracemalloc

import numpy as np
import pytest

from lattice.filter.pareto_selection import (
    check_importance,
    compute_layers,
    select_pareto,
    select_weighted_sum,
)
from wukong_jax.errors import UserError


def dominates(a, b):
    """Tests dominance by the definition, one pair at a time."""
    return all(x >= y for x, y in zip(a, b, strict=True)) and any(x > y for x, y in zip(a, b, strict=True))


def peel_slowly(importance):
    """Computes the layers by the definition: repeatedly removes the features that no remaining one dominates."""
    rows = importance.tolist()
    left, layer, current = set(range(len(rows))), np.full(len(rows), -1), 0
    while left:
        front = {i for i in left if not any(dominates(rows[k], rows[i]) for k in left)}
        layer[list(front)] = current
        left, current = left - front, current + 1
    return layer


def draw_importance(kind, features, tasks, seed):
    random = np.random.default_rng(seed)
    if kind == "ties":
        return random.integers(-1, 3, size=(features, tasks)).astype(np.float64)
    if kind == "chains":
        return np.round(random.normal(size=(features, 1)) + 0.05 * random.normal(size=(features, tasks)), 2)
    if kind == "front":
        points = random.random((features, tasks)) + 1e-3
        return points / points.sum(axis=1, keepdims=True)
    if kind == "duplicates":
        return random.normal(size=(max(1, features // 5), tasks))[random.integers(0, max(1, features // 5), features)]
    return random.normal(size=(features, tasks))


@pytest.mark.parametrize("kind", ["normal", "ties", "chains", "front", "duplicates"])
@pytest.mark.parametrize(("features", "tasks"), [(1, 1), (7, 1), (64, 2), (65, 3), (150, 2), (200, 4), (130, 10)])
def test_layers_are_those_of_the_definition(kind, features, tasks):
    """Sizes on both sides of the block of 64 that is compared at once."""
    importance = draw_importance(kind, features, tasks, seed=features + tasks)
    layers = compute_layers(importance)
    np.testing.assert_array_equal(layers.layer, peel_slowly(importance))
    np.testing.assert_array_equal(layers.sizes, np.bincount(layers.layer))
    for feature, dominator in enumerate(layers.dominator):
        if layers.layer[feature] == 0:
            assert dominator == -1
        else:
            assert layers.layer[dominator] == layers.layer[feature] - 1
            assert dominates(importance[dominator], importance[feature])


def test_equal_features_share_a_layer_and_signed_zeros_are_equal():
    layers = compute_layers(np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 1.0], [0.0, -0.0], [-0.0, 0.0], [2.0, 0.0]]))
    assert layers.layer.tolist() == [0, 0, 1, 2, 2, 0]


@pytest.mark.parametrize("kind", ["normal", "ties"])
def test_every_budget_takes_whole_layers_and_part_of_one(kind):
    importance = draw_importance(kind, 40, 2, seed=3)
    layer = peel_slowly(importance)
    for budget in range(1, 41):
        selection = select_pareto(importance, budget, seed=0)
        assert selection.kept.sum() == budget
        assert (layer[selection.kept] <= selection.last_layer).all()
        assert selection.kept[layer < selection.last_layer].all()
        taken, size = selection.kept[layer == selection.last_layer].sum(), (layer == selection.last_layer).sum()
        assert taken >= 1
        assert selection.drawn == (taken < size)


def test_the_last_layer_is_drawn_uniformly_by_seed():
    """One layer of 10, budget 3: over 2000 seeds each is taken with probability 0.3, standard error 0.0102."""
    importance = np.column_stack([np.arange(10.0), -np.arange(10.0)])
    kept = np.array([select_pareto(importance, 3, seed).kept for seed in range(2000)])
    np.testing.assert_allclose(kept.mean(axis=0), 0.3, atol=0.045)  # 4.4 standard errors
    np.testing.assert_array_equal(select_pareto(importance, 3, 7).kept, kept[7])
    assert not np.array_equal(kept[0], kept[1]) or not np.array_equal(kept[1], kept[2])


def test_layers_keep_what_only_one_task_needs_and_a_weighted_sum_does_not():
    """Task 0 has large losses, task 1 small ones; one feature serves task 1 alone."""
    importance = np.array([[0.5, 0.0], [0.4, 0.001], [0.3, 0.0], [0.0, 0.01], [0.2, 0.0]])
    assert np.flatnonzero(select_pareto(importance, 3, seed=0).kept).tolist() == [0, 1, 3]
    weighted = select_weighted_sum(importance, 3, np.ones(2), seed=0)
    assert np.flatnonzero(weighted.kept).tolist() == [0, 1, 2]
    np.testing.assert_allclose(weighted.score, [0.5, 0.401, 0.3, 0.01, 0.2], rtol=1e-12)
    heavy = select_weighted_sum(importance, 3, np.array([1.0, 100.0]), seed=0)
    assert np.flatnonzero(heavy.kept).tolist() == [0, 1, 3]


def test_equal_sums_are_chosen_by_seed():
    importance = np.array([[1.0]] * 6 + [[2.0]])
    kept = np.array([select_weighted_sum(importance, 3, np.ones(1), seed).kept for seed in range(200)])
    assert kept[:, 6].all()
    assert (kept.sum(axis=1) == 3).all()
    assert (kept[:, :6].mean(axis=0) > 0.15).all()  # 1/3 each, standard error 0.033
    np.testing.assert_array_equal(select_weighted_sum(importance, 3, np.ones(1), 5).kept, kept[5])


@pytest.mark.parametrize("budget", [0, -1, 6])
def test_budgets_out_of_range_are_refused(budget):
    importance = np.zeros((5, 2))
    for select in (
        lambda: select_pareto(importance, budget, 0),
        lambda: select_weighted_sum(importance, budget, np.ones(2), 0),
    ):
        with pytest.raises(UserError, match=f"budget = {budget}: must be from 1 to 5, the number of features"):
            select()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_importances_that_are_no_numbers_are_refused_by_name(value):
    importance = np.zeros((3, 2))
    importance[1, 1] = value
    with pytest.raises(UserError, match=rf"importance of feature 'b' for 'buy' = {value}"):
        check_importance(importance, ("a", "b", "c"), ("click", "buy"))
    with pytest.raises(ValueError, match="not finite"):
        compute_layers(importance)
    check_importance(np.zeros((3, 2)), ("a", "b", "c"), ("click", "buy"))


def test_tables_without_tasks_are_refused():
    with pytest.raises(ValueError, match=r"shape \(3, 0\)"):
        compute_layers(np.zeros((3, 0)))


@pytest.mark.parametrize("kind", ["normal", "chains"])
def test_the_papers_size_takes_seconds_and_little_memory(kind):
    """12,000 features, 10 tasks: 0.2 s on one core of a server, and nowhere near the 144 MB of one F x F mask."""
    importance = draw_importance(kind, 12_000, 10, seed=0)
    tracemalloc.start()
    started = time.process_time()
    layers = compute_layers(importance)
    seconds = time.process_time() - started
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert layers.sizes.sum() == 12_000
    assert seconds < 10
    assert peak < 2**24

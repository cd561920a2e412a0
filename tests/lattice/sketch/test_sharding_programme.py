import itertools

import numpy as np
import pytest

from lattice.sketch.sharding_costs import (
    FSDP_ALL,
    FSDP_CHIPS,
    REPLICATED,
    STRATEGIES,
    BytesPerWeight,
    ClusterRates,
    DenseLayer,
    build_problem,
    choose_strategies,
    compute_memory_bytes,
    compute_seconds,
    count_layers,
)
from lattice.sketch.sharding_programme import ShardingProblem, find_sharding
from wukong_jax.errors import UserError
from wukong_jax.models import wukong
from wukong_jax.models.cost import count_cost
from wukong_jax.models.shape import ModelShape


def make_problem(seed, layers, strategies, change=1.0, memory=50):
    random = np.random.default_rng(seed)
    changes = change * random.random((strategies, strategies))
    np.fill_diagonal(changes, 0)
    return ShardingProblem(
        random.random((layers, strategies)), random.integers(0, memory, (layers, strategies)), changes
    )


def cost_of(problem, chosen):
    """Computes (seconds, memory) of one choice, term by term."""
    seconds, memory = 0.0, 0
    for layer, strategy in enumerate(chosen):
        seconds += problem.seconds[layer, strategy]
        memory += int(problem.memory_bytes[layer, strategy])
        if layer:
            seconds += problem.change_seconds[chosen[layer - 1], strategy]
    return seconds, memory


def find_by_brute_force(problem, limit):
    """Returns (seconds, memory, strategies) of the fastest of all S^L choices that fits, or None."""
    layers, strategies = problem.seconds.shape
    choices = itertools.product(range(strategies), repeat=layers)
    costs = [(*cost_of(problem, chosen), chosen) for chosen in choices]
    return min((cost for cost in costs if cost[1] <= limit), default=None)


@pytest.mark.parametrize("change", [0.0, 0.3, 3.0])
@pytest.mark.parametrize(("layers", "strategies"), [(1, 3), (2, 2), (5, 3), (7, 2), (4, 4)])
def test_programme_finds_what_brute_force_finds(layers, strategies, change):
    for seed in range(6):
        problem = make_problem(seed, layers, strategies, change)
        least = problem.memory_bytes.min(axis=1).sum()
        most = problem.memory_bytes.max(axis=1).sum()
        for limit in np.unique(np.linspace(least, most, 6).astype(int)).tolist():
            seconds, memory, chosen = find_by_brute_force(problem, limit)
            plan = find_sharding(problem, limit)
            assert plan.strategies == chosen
            assert plan.memory_bytes == memory <= limit
            assert plan.seconds == pytest.approx(seconds, rel=1e-12)  # the order of addition differs


def test_cost_of_a_change_needs_the_strategy_before():
    # Greedy by layer, or one best way per memory whatever its last strategy, ends with 0, 1 or 1, 0.
    seconds = np.array([[1.0, 1.1], [1.1, 1.0], [1.0, 1.1]])
    problem = ShardingProblem(seconds, np.ones((3, 2), np.int64), np.array([[0.0, 5.0], [5.0, 0.0]]))
    assert find_sharding(problem, 3).strategies == (0, 0, 0)
    free = ShardingProblem(seconds, np.ones((3, 2), np.int64), np.zeros((2, 2)))
    assert find_sharding(free, 3).strategies == (0, 1, 0)


def test_programme_is_exact_where_the_last_byte_decides():
    seconds, memory = np.array([[1.0, 2.0]] * 3), np.array([[1_000_003, 7]] * 3)
    problem = ShardingProblem(seconds, memory, np.zeros((2, 2)))
    assert find_sharding(problem, 2 * 1_000_003 + 7).seconds == 4
    assert find_sharding(problem, 2 * 1_000_003 + 6).seconds == 5


def test_coarse_memory_never_exceeds_the_limit_and_is_optimal_among_what_fits_when_rounded():
    for seed in range(8):
        problem = make_problem(seed, 6, 3)
        rounded = ShardingProblem(problem.seconds, -(-problem.memory_bytes // 16) * 16, problem.change_seconds)
        limit = int(rounded.memory_bytes.min(axis=1).sum()) + 40
        plan = find_sharding(problem, limit, step_bytes=16)
        assert plan.strategies == find_by_brute_force(rounded, limit)[2]
        assert plan.memory_bytes == cost_of(problem, plan.strategies)[1] <= limit


def test_what_cannot_fit_is_refused_with_both_numbers():
    problem = make_problem(0, 5, 3)
    least = int(problem.memory_bytes.min(axis=1).sum())
    assert find_sharding(problem, least).memory_bytes == least
    with pytest.raises(UserError, match=f"limit = {least - 1:,} bytes: 5 layers need at least {least:,}"):
        find_sharding(problem, least - 1)
    with pytest.raises(UserError, match="step_bytes = 0"):
        find_sharding(problem, least, step_bytes=0)


@pytest.mark.parametrize("broken", ["memory", "sign", "changes", "float", "endless"])
def test_problem_of_wrong_shape_is_refused(broken):
    good = make_problem(0, 3, 2)
    parts = {"seconds": good.seconds, "memory_bytes": good.memory_bytes, "change_seconds": good.change_seconds}
    parts |= {
        "memory": {"memory_bytes": good.memory_bytes[:2]},
        "sign": {"memory_bytes": good.memory_bytes - 1000},
        "changes": {"change_seconds": np.zeros((3, 3))},
        "float": {"memory_bytes": good.memory_bytes.astype(float)},
        "endless": {"seconds": good.seconds * np.inf},
    }[broken]
    with pytest.raises(ValueError, match=r"memory|seconds"):
        ShardingProblem(**parts)


def test_long_stack_of_equal_layers_is_quick():
    random = np.random.default_rng(0)
    problem = ShardingProblem(
        np.tile(random.random((1, 3)), (200, 1)),
        np.tile(random.integers(1, 1 << 30, (1, 3)), (200, 1)),
        np.ones((3, 3)),
    )
    least, most = problem.memory_bytes.min(axis=1).sum(), problem.memory_bytes.max(axis=1).sum()
    assert find_sharding(problem, int(least + most) // 2).memory_bytes <= (least + most) // 2


# Two hosts of four chips; every number in the comments is bytes a chip sends.
CLUSTER = ClusterRates(
    hosts=2,
    chips=4,
    flops_per_second=1e6,
    chip_bytes_per_second=1e5,
    host_bytes_per_second=1e3,
    chip_start_seconds=0.01,
    host_start_seconds=0.1,
)
LAYER = DenseLayer("one", parameters=800, train_flops_per_example=6 * 800.0)


@pytest.mark.parametrize(
    ("strategy", "kept", "chip_bytes", "host_bytes"),
    [
        (REPLICATED, 800 * 16, 2 * 3 / 4 * 3200, 2 * 1 / 2 * 3200 / 4),
        (FSDP_CHIPS, 200 * 16, 3 * 3 / 4 * 3200, 2 * 1 / 2 * 3200 / 4),
        (FSDP_ALL, 100 * 16, 3 * 3 / 4 * 3200, 3 * 1 / 2 * 3200 / 4),
    ],
)
def test_costs_of_strategies_are_the_written_out_sums(strategy, kept, chip_bytes, host_bytes):
    size = BytesPerWeight()
    assert compute_memory_bytes(LAYER, strategy, CLUSTER, size) == kept
    seconds = 50 * 4800 / 1e6 + chip_bytes / 1e5 + host_bytes / 1e3
    assert compute_seconds(LAYER, strategy, CLUSTER, size, rows_per_chip=50) == pytest.approx(seconds, rel=1e-12)


def test_gathers_in_bfloat16_send_half_and_gradients_do_not():
    half = BytesPerWeight(gathered=2)
    seconds = compute_seconds(LAYER, FSDP_CHIPS, CLUSTER, half, rows_per_chip=0)
    assert seconds == pytest.approx((2 * 0.75 * 1600 + 0.75 * 3200) / 1e5 + 800 / 1e3, rel=1e-12)


def test_one_chip_sends_nothing():
    alone = ClusterRates(1, 1, 1e6, 1e5, 1e3, chip_start_seconds=1.0, host_start_seconds=1.0)
    problem = build_problem([LAYER] * 2, alone, rows_per_chip=10)
    np.testing.assert_allclose(problem.seconds, 10 * 4800 / 1e6, rtol=1e-12)
    np.testing.assert_array_equal(problem.change_seconds, 0)
    np.testing.assert_array_equal(problem.memory_bytes, 800 * 16)


def test_starts_are_paid_by_the_first_layer_and_after_a_change():
    problem = build_problem([LAYER] * 3, CLUSTER, rows_per_chip=10)
    starts = np.array([2 * 0.01 + 0.1, 3 * 0.01 + 0.1, 3 * 0.01 + 3 * 0.1])
    np.testing.assert_allclose(problem.seconds[0] - problem.seconds[1], starts, rtol=1e-9)
    for before, after in itertools.product(range(3), repeat=2):
        assert problem.change_seconds[before, after] == pytest.approx(0 if before == after else starts[after])


def test_less_memory_shards_more_and_the_last_limit_is_refused():
    layers = [DenseLayer(str(size), size, 6.0 * size) for size in (1000, 4000, 2000)]
    everything, aside = 7000 * 16, 4000 * 8
    chosen, plan = choose_strategies(layers, CLUSTER, 10, everything)
    assert chosen == (REPLICATED,) * 3
    assert plan.memory_bytes == everything
    chosen, plan = choose_strategies(layers, CLUSTER, 10, everything - 1)  # something is gathered from here on
    assert chosen != (REPLICATED,) * 3
    assert plan.memory_bytes + aside < everything
    everywhere = 7000 * 16 // 8
    chosen, plan = choose_strategies(layers, CLUSTER, 10, everywhere + aside)
    assert chosen == (FSDP_ALL,) * 3
    assert plan.memory_bytes == everywhere
    with pytest.raises(UserError, match=r"need at least 14,000.* 32,000 are for the largest layer"):
        choose_strategies(layers, CLUSTER, 10, everywhere + aside - 1)


def test_layers_of_a_counted_model_add_up_to_it():
    shape = ModelShape(
        dense_features=3, tokens=6, width=4, objectives=1, domains=1, compute_dtype="float32", token_columns=()
    )
    options = {"layers": 3, "fmb_tokens": 4, "lcb_tokens": 4, "rank": 3, "fmb_hidden": (8,), "head_hidden": (8,)}
    layers = count_layers(wukong.build, options, shape)
    whole = count_cost(wukong.build(options, shape), shape)
    assert sum(layer.parameters for layer in layers) == whole.dense_parameters
    assert sum(layer.train_flops_per_example for layer in layers) == pytest.approx(whole.train_flops_per_example)
    assert layers[1].parameters == layers[2].parameters > 0  # equal layers, 8 tokens in and out
    limit = whole.dense_parameters * 16 - 1
    chosen, plan = choose_strategies(layers, CLUSTER, 10, limit)
    assert set(chosen) <= set(STRATEGIES)
    assert set(chosen) != {REPLICATED}
    assert plan.memory_bytes < limit
    with pytest.raises(UserError, match="layers: not among"):
        count_layers(wukong.build, {"rank": 3}, shape)


def test_rates_out_of_range_are_refused():
    with pytest.raises(UserError, match="host_bytes_per_second = 0"):
        ClusterRates(1, 1, 1.0, 1.0, 0.0)

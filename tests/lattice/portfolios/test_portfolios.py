"""Tests portfolios: counts, affinities, grouping under budget and rules, the rows of a group."""

import itertools
import json

import numpy as np
import pytest

from lattice.filter.reduced_rows import write_rewritten_rows
from lattice.portfolios.affinity import AffinityWeights, compute_affinity, compute_cosines, compute_overlaps
from lattice.portfolios.conflicts import Resolved
from lattice.portfolios.groups import describe_groups, format_groups, load_groups, split_name, write_groups
from lattice.portfolios.partitioner import (
    Budget,
    Rule,
    check_rules,
    compute_cost,
    find_dropped_columns,
    partition_portfolios,
)
from lattice.portfolios.portfolios import Portfolio, format_portfolios, format_seconds, measure_portfolios
from lattice.portfolios.rows import build_group_schema, select_group_rows
from wukong_jax.config import DataConfig
from wukong_jax.data.blocks.conversion_log import build_conversion_log
from wukong_jax.data.blocks.row_blocks import SPLITS, BlockWriter, open_row_blocks
from wukong_jax.errors import UserError
from wukong_jax.runs.rows import open_run_data
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source, schema_to_json

SCHEMA = Schema(
    "bookings",
    Source("csv"),
    (LabelColumn("click"), LabelColumn("order")),
    dense=(DenseColumn("price"),),
    categorical=tuple(CategoricalColumn(name, encoding="identity", rows=9) for name in ("user", "item", "shelf")),
    domain="place",
    domain_values=("home", "shop", "away"),
    timestamp="time",
)


def make_rows(rows=80, seed=0):
    """Returns rows without orders in the domain "home"; the users of "away" are disjoint from the others."""
    random = np.random.default_rng(seed)
    domain = random.integers(0, 3, rows).astype(np.int32)
    ids = random.integers(1, 5, (rows, 3)).astype(np.int32)
    ids[domain == 2, 0] += 4
    ids[domain == 1, 2] = -1
    mask = (random.random((rows, 2)) < 0.9).astype(np.float32)
    mask[domain == 0, 1] = 0
    return {
        "dense": random.normal(size=(rows, 1)).astype(np.float32),
        "ids": ids,
        "labels": (random.random((rows, 2)) < (0.5, 0.1)).astype(np.float32) * mask,
        "label_mask": mask,
        "domain": domain,
        "group": np.zeros(rows, np.int32),
        "timestamp": 1000 + np.arange(rows, dtype=np.int64),
        "weight": (random.random(rows) < 0.9).astype(np.float32),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole")
    for place, split in enumerate(SPLITS):
        with BlockWriter(path, split, SCHEMA, rows_per_block=32) as writer:
            writer.append(make_rows(seed=place))
    (path / "schema.json").write_text(schema_to_json(SCHEMA))
    return path


def test_portfolios_are_counted_row_by_row(folder):
    rows = make_rows()
    orders = np.flatnonzero((rows["domain"] == 2) & (rows["label_mask"][:, 1] > 0))[:3]
    # the last row converts again and again: its first counts
    at = rows["timestamp"][orders[[0, 1, 2, 2, 2, 2]]] + (50, 100, 400, 1000, 2000, 3000)
    log = build_conversion_log(orders[[0, 1, 2, 2, 2, 2]], np.ones(6, np.int32), at)
    made = measure_portfolios(open_row_blocks(folder, "train"), "user", "item", log, {"away/order": 3.0})
    assert [p.name for p in made.portfolios] == ["home/click", "shop/click", "shop/order", "away/click", "away/order"]
    for place, portfolio in enumerate(made.portfolios):
        g, o = SCHEMA.domain_values.index(portfolio.domain), ("click", "order").index(portfolio.objective)
        mine = [i for i in range(80) if rows["domain"][i] == g and rows["label_mask"][i, o] and rows["weight"][i]]
        users, items = ({int(rows["ids"][i, slot]) for i in mine} for slot in (0, 1))
        positives = sum(rows["labels"][i, o] for i in mine)
        assert (portfolio.rows, portfolio.positives) == (len(mine), positives)
        assert portfolio.density == max(positives, 0.5) / len(mine)
        assert (list(made.users[place]), list(made.items[place])) == (sorted(users), sorted(items))
        assert (portfolio.users, portfolio.items) == (len(users), len(items))
    assert [p.delay_seconds for p in made.portfolios] == [1, 1, 1, 1, 100]
    assert [p.weight for p in made.portfolios] == [1, 1, 1, 1, 3]
    assert made.count_ids(["shop"]) == 8  # 4 users, 4 items, no shelf
    table = format_portfolios(made.portfolios)
    assert "away/order" in table
    assert "1.67 min" in table


def test_users_and_items_of_no_column_are_not_given_instead_of_zero(folder):
    made = measure_portfolios(open_row_blocks(folder, "train"), item="item")
    assert [p.users for p in made.portfolios] == [None] * 5
    assert all(p.items for p in made.portfolios)
    header, *lines = format_portfolios(made.portfolios).splitlines()
    assert all(line[: header.index("users") + 5].endswith(" not given") for line in lines)


def test_overlaps_and_cosines_equal_their_definitions():
    random = np.random.default_rng(0)
    sets = [np.unique(random.integers(0, 9, size)) for size in (6, 3, 0, 9)]
    gradients = random.normal(size=(4, 7)) * (random.random((4, 7)) < 0.6)
    gradients[3] = 0
    overlaps, cosines = compute_overlaps(sets), compute_cosines(gradients)
    for i, j in itertools.product(range(4), repeat=2):
        a, b = set(sets[i]), set(sets[j])
        assert overlaps[i, j] == (len(a & b) / len(a | b) if a | b else 0)
        both = (gradients[i] != 0) & (gradients[j] != 0)
        x, y = gradients[i][both], gradients[j][both]
        expected = x @ y / np.sqrt((x @ x) * (y @ y)) if both.any() else 0
        np.testing.assert_allclose(cosines[i, j], expected, atol=1e-12)


def test_affinity_is_the_sum_of_its_terms(folder):
    rows = measure_portfolios(open_row_blocks(folder, "train"), "user", "item")
    cosine = np.random.default_rng(0).uniform(-1, 1, (5, 5))
    weights = AffinityWeights(users=0.5, items=0.25, delay=0.1, density=0.3, conflict=2.0)
    made = compute_affinity(rows, weights, cosine)
    for i, j in itertools.product(range(5), repeat=2):
        p, q = rows.portfolios[i], rows.portfolios[j]
        users, items = (len(np.intersect1d(a[i], a[j])) / len(np.union1d(a[i], a[j])) for a in (rows.users, rows.items))
        expected = 0.5 * users + 0.25 * items - 0.3 * abs(np.log(p.density / q.density)) + 2 * min(0, cosine[i, j])
        np.testing.assert_allclose(made.total[i, j], expected, rtol=1e-12)


def make_portfolios(*names, weights=None):
    return [Portfolio(*split_name(name), 10, 5, 3, 3, 1.0, (weights or {}).get(name, 1.0)) for name in names]


TRAFFIC = {"a": 60, "b": 30, "c": 10}
FIVE = make_portfolios("a/x", "a/y", "b/x", "b/y", "c/x")


def slow_partition(portfolios, affinity, budget, forbidden, saving_first=False):
    """Runs the same greedy algorithm, recomputing every pair from its members' names."""
    groups = [{i} for i in range(len(portfolios))]

    def cost():
        return sum(TRAFFIC[d] for g in groups for d in {portfolios[i].domain for i in g}) / 100

    while True:
        pairs = []
        for g, h in itertools.combinations(groups, 2):
            if any((i, j) in forbidden or (j, i) in forbidden for i in g for j in h):
                continue
            value = np.mean([affinity[i, j] for i in g for j in h])
            common = {portfolios[i].domain for i in g} & {portfolios[i].domain for i in h}
            dear = budget is not None and cost() > budget
            if (value > 0 and not (dear and saving_first)) or (dear and common):
                pairs.append((value, g, h))
        if not pairs:
            return {frozenset(g) for g in groups}
        _, g, h = max(pairs, key=lambda pair: pair[0])
        groups = [k for k in groups if k not in (g, h)] + [g | h]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("budget", [None, 1.0, 1.4])
def test_grouping_equals_its_slow_twin(seed, budget):
    affinity = np.random.default_rng(seed).normal(size=(5, 5)) - 0.4
    affinity = affinity + affinity.T
    rules = [Rule("a", "c"), Rule("b/x", "a/y")]
    forbidden = {(0, 4), (1, 4), (2, 1)}
    limit = None if budget is None else Budget(budget)
    for saving_first in (False, True):
        expected = slow_partition(FIVE, affinity, budget, forbidden, saving_first)
        cost = sum(TRAFFIC[d] for g in expected for d in {FIVE[i].domain for i in g}) / 100
        if budget is None or cost <= budget:
            break
    else:
        with pytest.raises(UserError, match=r"under the rules merging ended at \d models"):
            partition_portfolios(FIVE, affinity, TRAFFIC, limit, rules)
        return
    made = partition_portfolios(FIVE, affinity, TRAFFIC, limit, rules)
    assert set(map(frozenset, made.groups)) == expected
    np.testing.assert_allclose([made.cost, compute_cost(made.groups, FIVE, TRAFFIC)], cost)


def test_without_rules_any_budget_from_one_is_met():
    for seed in range(8):
        affinity = np.random.default_rng(seed).normal(size=(5, 5))
        assert partition_portfolios(FIVE, affinity + affinity.T, TRAFFIC, Budget(1.0)).cost == 1.0


def test_a_budget_is_met_where_affinity_would_have_merged_across_a_rule():
    four = make_portfolios("a/x", "a/y", "b/x", "b/y")
    affinity = np.full((4, 4), -0.1)
    affinity[0, 2] = affinity[2, 0] = 1.0  # a/x and b/x, whose group could then take neither a/y nor b/y
    made = partition_portfolios(four, affinity, TRAFFIC, Budget(1.0), [Rule("a/x", "b/y"), Rule("a/y", "b/x")])
    assert made.groups == ((0, 1), (2, 3))
    made = partition_portfolios(four, affinity, TRAFFIC, Budget(2.0), [Rule("a/x", "b/y")])
    assert made.groups == ((0, 2), (1,), (3,))


def test_worth_decides_where_a_pair_of_groups_is_torn():
    affinity = np.array([[0, 1, -1], [1, 0, 0.9], [-1, 0.9, 0]], float)  # a/x likes a/y, which likes b/x; a/x does not
    even = partition_portfolios(make_portfolios("a/x", "a/y", "b/x"), affinity, TRAFFIC)
    assert even.groups == ((0, 1), (2,))
    worth = make_portfolios("a/x", "a/y", "b/x", weights={"a/x": 0.1})
    assert partition_portfolios(worth, affinity, TRAFFIC).groups == ((0, 1, 2),)


def test_rules_are_checked_and_a_budget_out_of_reach_is_told():
    columns = ["user", "item"]
    with pytest.raises(UserError, match=r"rule a \| moon: 'moon' is no domain, portfolio or feature column"):
        check_rules([Rule("a", "moon")], FIVE, columns)
    with pytest.raises(UserError, match="one is part of the other"):
        check_rules([Rule("a/x", "a")], FIVE, columns)
    check_rules([Rule("user", "item"), Rule("user", "a/x"), Rule("a", "b")], FIVE, columns)
    with pytest.raises(UserError, match="one is part of the other"):
        check_rules([Rule("a/b/x", "a/b")], make_portfolios("a/b/x"), columns)
    check_rules([Rule("a/b/x", "a")], make_portfolios("a/b/x", "a/x"), columns)
    with pytest.raises(UserError, match="under the rules merging ended at 5 models"):
        partition_portfolios(
            FIVE,
            np.ones((5, 5)),
            TRAFFIC,
            Budget(1.0),
            [Rule(p.name, q.name) for p, q in itertools.permutations(FIVE, 2)],
        )
    with pytest.raises(UserError, match=r"budget = 0\.5 model runs a row: at least 1"):
        Budget(0.5)


def test_features_are_dropped_where_a_rule_keeps_them_from_meeting():
    rules = [Rule("user", "b"), Rule("c/x", "item"), Rule("shelf", "price")]
    columns = ["user", "item", "shelf", "price"]
    assert find_dropped_columns([0, 2], FIVE, rules, columns) == {
        "user": "may not meet b",
        "price": "may not meet column shelf",
    }
    assert set(find_dropped_columns([4], FIVE, rules, columns)) == {"item", "price"}


def test_rows_of_a_group_are_the_union_of_its_portfolios(folder, tmp_path):
    data = open_run_data(DataConfig("blocks", path=str(folder)), tmp_path, print)
    group = build_group_schema(SCHEMA, [("shop", "click"), ("away", "order")], {"item"})
    write_rewritten_rows(data, group.schema, lambda rows: select_group_rows(rows, SCHEMA, group), tmp_path / "group")
    blocks = open_row_blocks(tmp_path / "group", "test")
    assert blocks.schema.domain_values == ("shop", "away")
    assert [label.name for label in blocks.schema.labels] == ["click", "order"]
    assert [column.name for column in blocks.schema.id_columns] == ["user", "shelf"]
    parts = [blocks.read(i) for i in range(blocks.num_blocks)]
    made = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    rows = make_rows(seed=2)
    kept = [
        i
        for i in range(80)
        if (rows["domain"][i] == 1 and rows["label_mask"][i, 0])
        or (rows["domain"][i] == 2 and rows["label_mask"][i, 1])
    ]
    assert len(made["weight"]) == len(kept)
    for place, i in enumerate(kept):
        shop = rows["domain"][i] == 1
        assert made["domain"][place] == (0 if shop else 1)
        assert list(made["label_mask"][place]) == ([1, 0] if shop else [0, 1])
        assert list(made["labels"][place]) == ([rows["labels"][i, 0], 0] if shop else [0, rows["labels"][i, 1]])
        assert list(made["ids"][place]) == [rows["ids"][i, 0], rows["ids"][i, 2]]
        assert made["timestamp"][place] == rows["timestamp"][i]
    alone = build_group_schema(SCHEMA, [("away", "click")], ())
    assert alone.schema.domain_values == ()
    assert set(select_group_rows(rows, SCHEMA, alone)["domain"]) == {0}


def test_groups_are_written_with_their_reasons_and_read_again(folder, tmp_path):
    rows = measure_portfolios(open_row_blocks(folder, "train"), "user", "item")
    affinity = compute_affinity(rows, AffinityWeights())
    rules = [Rule("home", "away"), Rule("user", "away")]
    traffic = {"home": 30, "shop": 30, "away": 20}
    grouping = partition_portfolios(rows.portfolios, affinity.total, traffic, None, rules)
    described = describe_groups(rows, affinity, Resolved(grouping, (), {}), rules, AffinityWeights(), SCHEMA, None)
    picture = write_groups(described, tmp_path / "deep" / "groups.json", "bookings")
    assert picture.read_bytes()[:4] == b"\x89PNG"
    groups = load_groups(tmp_path / "deep" / "groups.json")
    assert sorted(name for group in groups for name in group["portfolios"]) == sorted(p.name for p in rows.portfolios)
    of_away = next(group for group in groups if "away/click" in group["portfolios"])
    assert "home/click" not in of_away["portfolios"]
    assert of_away["dropped_columns"] == {"user": "may not meet away"}
    text = format_groups(described)
    assert "without column user: may not meet away" in text
    assert json.loads((tmp_path / "deep" / "groups.json").read_text())["rules"] == [["home", "away"], ["user", "away"]]


def test_wrong_columns_logs_and_weights_are_refused(folder):
    blocks = open_row_blocks(folder, "train")
    with pytest.raises(UserError, match="column 'users': no id column of the data; it has user, item, shelf"):
        measure_portfolios(blocks, "users")
    with pytest.raises(UserError, match="weight of 'moon/click': no such portfolio"):
        measure_portfolios(blocks, weights={"moon/click": 1.0})
    log = build_conversion_log(np.array([80]), np.zeros(1, np.int32), np.array([2000]))
    with pytest.raises(UserError, match="of impression 80, the split has 80 rows"):
        measure_portfolios(blocks, conversions=log)
    with pytest.raises(UserError, match="conflict = -1: must be at least 0"):
        AffinityWeights(conflict=-1)


def test_durations_read_well():
    assert [format_seconds(s) for s in (5, 90, 5400, 86_400 * 7)] == ["5 s", "1.5 min", "1.5 h", "7 d"]

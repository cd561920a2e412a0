"""Tests rules of groups: budgets shared by weight and conflicts against slow twins, the file, and what is written."""

import itertools
import json

import numpy as np
import pytest

from lattice.portfolios.affinity import AffinityWeights, compute_affinity
from lattice.portfolios.conflicts import Resolved, find_opposed_domains, find_split, resolve_conflicts
from lattice.portfolios.group_rules import ConflictRules, GroupRules, load_rules
from lattice.portfolios.groups import describe_groups, format_groups, load_groups, write_groups
from lattice.portfolios.partitioner import Budget, Grouping, Rule, compute_cost, partition_portfolios
from lattice.portfolios.portfolios import Portfolio, PortfolioRows
from wukong_jax.errors import UserError
from wukong_jax.schema import CategoricalColumn, LabelColumn, Schema, Source

TRAFFIC = {"a": 60, "b": 30, "c": 10}
NAMES = ("a/x", "a/y", "b/x", "b/y", "c/x", "c/y")
SCHEMA = Schema(
    "shop",
    Source("csv"),
    (LabelColumn("x"), LabelColumn("y")),
    categorical=(CategoricalColumn("user", encoding="identity", rows=9),),
)


def make_rows(weights=None):
    """Returns portfolios whose domains have the rows of TRAFFIC."""
    portfolios = [
        Portfolio(*name.split("/"), TRAFFIC[name[0]], 5, 3, 3, 1.0, (weights or {}).get(name, 1.0)) for name in NAMES
    ]
    ids = tuple(np.arange(3) for _ in NAMES)
    return PortfolioRows(tuple(portfolios), ids, ids, {domain: {"user": np.arange(3)} for domain in TRAFFIC})


def draw_symmetric(seed, shift=0.0):
    drawn = np.random.default_rng(seed).uniform(-1, 1, (6, 6)) + shift
    return (drawn + drawn.T) / 2


def slow_shared_partition(weights, affinity, budget, forbidden, saving_first):
    """Runs the agglomeration with each group's own budget, from names; returns groups and whether all keep theirs."""
    groups = [[name] for name in NAMES]

    def beyond(group):
        domains = {name[0] for name in group}
        share = sum(weights[name] for name in group) / sum(weights.values())
        return max(0, sum(TRAFFIC[domain] for domain in domains) / 100 - budget * share)

    def mean_affinity(g, h):
        pairs = [(weights[i] * weights[j], affinity[NAMES.index(i), NAMES.index(j)]) for i in g for j in h]
        return sum(mass * value for mass, value in pairs) / sum(mass for mass, _ in pairs)

    while True:
        excess = sum(map(beyond, groups))
        pairs = []
        for g, h in itertools.combinations(groups, 2):
            if any({i, j} in forbidden for i in g for j in h):
                continue
            helps = beyond(g) + beyond(h) - beyond(g + h) > 1e-9
            value = mean_affinity(g, h)
            if (value > 0 and not (excess > 1e-9 and saving_first)) or (excess > 1e-9 and helps):
                pairs.append((value, g, h))
        if not pairs:
            return {frozenset(group) for group in groups}, excess <= 1e-9
        _, g, h = max(pairs, key=lambda pair: pair[0])
        groups = [group for group in groups if group not in (g, h)] + [g + h]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("budget", [1.0, 1.3, 2.0])
def test_groups_that_share_a_budget_by_weight_equal_their_slow_twin(seed, budget):
    weights = dict(zip(NAMES, np.random.default_rng(seed).uniform(0.2, 5, 6).tolist(), strict=True))
    affinity = draw_symmetric(seed, -0.3)
    forbidden = [{"a/x", "c/x"}, {"b/y", "a/y"}] if seed % 2 else []
    rules = [Rule(*sorted(pair)) for pair in forbidden]
    rows = make_rows(weights)
    for saving_first in (False, True):
        expected, met = slow_shared_partition(weights, affinity, budget, forbidden, saving_first)
        if met:
            break
    if not met:
        with pytest.raises(UserError, match=r"runs a row, 0\.\d+ beyond the groups' shares; raise the budget"):
            partition_portfolios(rows.portfolios, affinity, TRAFFIC, Budget(budget, by_weight=True), rules)
        return
    made = partition_portfolios(rows.portfolios, affinity, TRAFFIC, Budget(budget, by_weight=True), rules)
    assert {frozenset(NAMES[i] for i in group) for group in made.groups} == expected
    assert made.cost <= budget + 1e-9  # all shares together are the budget


def test_what_is_worth_more_keeps_a_model_of_its_own():
    affinity = np.full((6, 6), -1.0)
    affinity[0] = affinity[:, 0] = -2.0
    rows = make_rows({"a/x": 3.0})  # 3 of 8: 0.75 of 2 runs, and a model on domain a takes 0.6
    made = partition_portfolios(rows.portfolios, affinity, TRAFFIC, Budget(2.0, by_weight=True))
    assert made.groups == ((0,), (1, 2, 3, 4), (5,))  # a/y needs what b and one of c have left
    even = partition_portfolios(make_rows().portfolios, affinity, TRAFFIC, Budget(2.0, by_weight=True))
    assert (0,) not in even.groups  # a sixth of 2 runs is too little for 0.6
    with pytest.raises(UserError, match="all weights are 0"):
        partition_portfolios(
            make_rows(dict.fromkeys(NAMES, 0.0)).portfolios, affinity, TRAFFIC, Budget(2.0, by_weight=True)
        )


def slow_cosine(first, second, weights, cosine):
    pairs = [(weights[i] * weights[j], cosine[NAMES.index(i), NAMES.index(j)]) for i in first for j in second]
    return sum(mass * value for mass, value in pairs) / sum(mass for mass, _ in pairs)


def slow_split(group, weights, cosine):
    parts = [[name] for name in group]
    while len(parts) > 2:
        pairs = list(itertools.combinations(parts, 2))
        best = max(pairs, key=lambda pair: slow_cosine(*pair, weights, cosine))
        parts = [part for part in parts if part not in best] + [best[0] + best[1]]
    return parts


def slow_groups(group, weights, cosine, below):
    """Splits a group, and its parts, until no two parts are below the threshold."""
    if len(group) < 2:
        return [set(group)]
    first, second = slow_split(group, weights, cosine)
    if slow_cosine(first, second, weights, cosine) >= below:
        return [set(group)]
    return slow_groups(first, weights, cosine, below) + slow_groups(second, weights, cosine, below)


@pytest.mark.parametrize("seed", range(6))
def test_splits_and_untied_groups_equal_their_slow_twin(seed):
    weights = dict(zip(NAMES, np.random.default_rng(seed).uniform(0.2, 5, 6).tolist(), strict=True))
    cosine, rows = draw_symmetric(seed), make_rows(weights)
    whole = Grouping((tuple(range(6)),), (), 1.0)
    rules = ConflictRules(split_below=-0.25, untie_below=-0.05, untie=("fmb", "heads"))
    made = resolve_conflicts(whole, rows, cosine, rules, None)
    groups = [{NAMES[i] for i in group} for group in made.grouping.groups]
    expected = slow_groups(NAMES, weights, cosine, -0.25)
    assert sorted(map(sorted, groups)) == sorted(map(sorted, expected))
    assert made.grouping.cost == compute_cost(made.grouping.groups, rows.portfolios, TRAFFIC)
    for group, names in zip(made.grouping.groups, groups, strict=True):
        domains = [[name for name in names if name[0] == domain] for domain in "abc"]
        pairs = itertools.combinations([names for names in domains if names], 2)
        opposed = any(slow_cosine(*pair, weights, cosine) < -0.05 for pair in pairs)
        assert made.untied.get(group, ()) == (("fmb", "heads") if opposed else ())


def test_a_split_beyond_the_budget_is_not_made_and_told():
    cosine = np.full((6, 6), 0.5)
    cosine[:2, 2:] = cosine[2:, :2] = -0.5  # a against b and c
    whole, rows = Grouping((tuple(range(6)),), (), 1.0), make_rows()
    rules = ConflictRules(split_below=-0.2, untie_below=-0.1)
    apart = resolve_conflicts(whole, rows, cosine, rules, Budget(1.0))
    assert apart.grouping.groups == ((0, 1), (2, 3, 4, 5))  # other domains: no run more
    assert apart.untied == {}
    assert [(c.decision, c.cosine) for c in apart.conflicts if c.threshold == -0.2] == [
        ("split", -0.5),
        ("kept", 0.5),
        ("kept", 0.5),
    ]
    cosine = np.full((6, 6), 0.5)
    cosine[::2, 1::2] = cosine[1::2, ::2] = -0.5  # x against y, in all domains
    kept = resolve_conflicts(whole, rows, cosine, rules, Budget(1.5))
    assert kept.grouping.groups == whole.groups
    assert kept.conflicts[0].decision == "not split: over the budget"
    assert kept.untied == {}  # domains agree on average: (0.5 + 0.5 - 0.5 - 0.5) / 4
    assert resolve_conflicts(whole, rows, cosine, rules, Budget(2.0)).grouping.groups == ((0, 2, 4), (1, 3, 5))
    assert find_split((3,), rows.portfolios, cosine) is None
    assert find_opposed_domains((0, 1), rows.portfolios, cosine) is None


def test_groups_are_written_with_budgets_conflicts_and_what_to_untie(tmp_path):
    rows, cosine = make_rows({"a/x": 3.0}), np.full((6, 6), -0.3)
    affinity = compute_affinity(rows, AffinityWeights(conflict=0.0), cosine)
    budget = Budget(1.0, by_weight=True)
    grouping = partition_portfolios(rows.portfolios, affinity.total, TRAFFIC, budget)
    resolved = resolve_conflicts(grouping, rows, cosine, ConflictRules(split_below=-0.2, untie_below=-0.1), budget)
    described = describe_groups(rows, affinity, resolved, (), AffinityWeights(), SCHEMA, budget)
    write_groups(described, tmp_path / "groups.json", "shop")
    (group,) = load_groups(tmp_path / "groups.json")
    assert (group["untied"], group["budget"], group["weight_share"]) == (["heads"], 1.0, 1.0)
    written = json.loads((tmp_path / "groups.json").read_text())
    assert (written["budget"], written["budget_by_weight"]) == (1.0, True)
    assert [c["decision"] for c in written["conflicts"]] == ["not split: over the budget", "untied"]
    text = format_groups(written)
    assert "1 of the weights, so 1 of the budget of model runs; it takes 1" in text
    assert "each domain has its own heads, as domains conflict" in text
    assert "cosine -0.300, below -0.1: untied" in text
    plain = describe_groups(rows, affinity, Resolved(grouping, (), {}), (), AffinityWeights(), SCHEMA, None)
    assert not {"budget", "untied"} & set(plain["groups"][0])


def test_a_rules_file_is_read(tmp_path):
    path = tmp_path / "rules.json"
    conflict = {"split_below": -0.4, "untie_below": -0.1, "untie": ["fmb"]}
    path.write_text(
        json.dumps({"must_not_meet": [["a", "b"]], "weights": {"a/x": 2}, "budget_by_weight": 3, "conflict": conflict})
    )
    rules = load_rules(path)
    assert rules.pairs == (Rule("a", "b"),)
    assert rules.conflict == ConflictRules(-0.4, -0.1, ("fmb",))
    assert rules.choose_budget(None) == Budget(3, by_weight=True)
    assert (GroupRules().choose_budget(2.0), GroupRules().choose_budget(None)) == (Budget(2.0), None)
    with pytest.raises(UserError, match="--budget = 2: the rules have budget_by_weight = 3"):
        rules.choose_budget(2.0)
    with pytest.raises(UserError, match="--weights: the rules have weights, too"):
        rules.check_flags(weights=True, gradients=True)
    with pytest.raises(UserError, match="`conflict` is not read without --workdir"):
        rules.check_flags(weights=False, gradients=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected a mapping"),
        ("nonsense", "expected JSON"),
        ('{"must_not_meet": [["a"]]}', "expected pairs of names"),
        ('{"must_not_meet": [], "x": 1}', "x = 1: unknown key"),
        ('{"weights": {"a/x": -1}}', "must be at least 0"),
        ('{"budget_by_weight": 0.5}', "must be at least 1"),
        ('{"conflict": {}}', "give split_below, untie_below, or both"),
        ('{"conflict": {"split_below": -2}}', "split_below = -2"),
        ('{"conflict": {"split_below": -0.1, "untie_below": -0.2}}', "must be above split_below = -0.1"),
        ('{"conflict": {"split_below": -0.1, "untie": ["fmb"]}}', "is not read without untie_below"),
        ('{"conflict": {"untie_below": -0.1, "untie": ["tables"]}}', "tables"),
    ],
)
def test_wrong_rules_are_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "rules.json").write_text(text)
    with pytest.raises(UserError) as error:
        load_rules(tmp_path / "rules.json")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="No such file"):
        load_rules(tmp_path / "nowhere.json")

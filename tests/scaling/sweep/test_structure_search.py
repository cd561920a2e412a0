"""Tests the search over structures: same number of trials for all, its seed, groups for shards, and the suggestions."""

import dataclasses
import math

import pytest

from tests.scaling.sweep.test_units import make_sweep, walk_search
from wukong_jax.errors import UserError
from wukong_jax.scaling.ladders.searched import SEARCHED
from wukong_jax.scaling.sweep.config import Settings
from wukong_jax.scaling.sweep.suggest import SearchSpace, suggest_settings
from wukong_jax.scaling.sweep.units import curve_units, plan_search, rate_grid, shard_trials, structure_size

SPACE = SearchSpace(
    rates=(0.5, 1.0, 2.0),
    initial_scales=(0.02, 0.1),
    weight_decays=(0.0, 0.01),
    norms=("token", "none"),
    structures=(("fm", ("static", "full")), ("layers", ("2", "1", "3"))),
)


def make_searched(models=None, rates=(0.5, 1.0, 2.0), **structure):
    structure = {"trials": 12, "seed": 1000, "weight_decays": (0.0, 0.01)} | structure
    search = {"rates": rates, "initial_scales": (0.02, 0.1), "steps": 0, "structure": structure}
    return make_sweep(
        models=models or {"Wukong": ("xs", "s", "m"), "DNN": (), "FM": ()}, ladders="searched", search=search
    )


def distance(unit):
    """A loss whose best settings are known, at rate 2."""
    settings = unit.settings
    chosen = dict(settings.structure)
    loss = 0.1 * (settings.norm != "none") + 0.3 * (chosen.get("fm") != "full") + 0.2 * (chosen.get("layers") != "3")
    return 1 + loss + 0.05 * (settings.weight_decay == 0) + 0.1 * abs(math.log2(settings.rate / 2))


def test_every_model_gets_as_many_trials_at_one_size_with_the_searchs_own_seed():
    sweep = make_searched()
    for model in ("Wukong", "DNN"):
        trials, _ = plan_search(sweep, model, distance)
        placed = [unit for unit, stage in trials.items() if stage == "structure"]
        assert len(placed) == 12
        assert len({unit.settings for unit in placed}) == 12
        assert {unit.size for unit in placed} == {structure_size(sweep, model)}
        assert {unit.seed for unit in trials} == {1000}
    _, found = walk_search(sweep, "Wukong", distance)
    assert 1000 not in {unit.seed for unit in curve_units(sweep, {"Wukong": found})}


def test_the_first_trial_is_the_usual_structure():
    sweep = make_searched()
    first = next(iter(plan_search(sweep, "Wukong", lambda unit: None)[0]))
    usual = tuple((choice, next(iter(names))) for choice, names in SEARCHED["Wukong"].structures.items())
    assert first.settings == Settings(1.0, 0.02, "token", usual, 0.0)


def test_the_best_structure_is_kept_and_the_rate_is_searched_at_every_size():
    order, found = walk_search(make_searched(trials=30), "Wukong", distance)
    best = min(order[:30], key=distance).settings
    for settings in found.values():
        assert dataclasses.replace(settings, rate=best.rate) == best
        assert settings.rate == 2.0
    assert distance(min(order[:30], key=distance)) < min(map(distance, order[:8]))  # it learned something


def test_a_climb_goes_beyond_the_grid():
    sweep = make_searched(models={"FM": ()})
    _, found = walk_search(sweep, "FM", lambda unit: abs(math.log2(unit.settings.rate / 16)))
    assert found["only"].rate == 16
    assert max(rate_grid(sweep)) == 128


@pytest.mark.parametrize("at_once", [1, 4])
def test_suggestions_depend_on_whole_groups_alone(at_once):
    sweep = make_searched(models={"Wukong": ("m",)}, at_once=at_once)
    all_at_once, _ = walk_search(sweep, "Wukong", distance)
    known = {}
    while True:  # one unit at a time, the last of those that are due first
        units, found = plan_search(sweep, "Wukong", known.get)
        missing = [unit for unit in units if unit not in known]
        if not missing:
            break
        assert len(missing) <= at_once
        known[missing[-1]] = distance(missing[-1])
    assert found
    assert set(known) == set(all_at_once)


def test_shards_share_the_trials_of_a_model():
    trials = list(plan_search(make_searched(at_once=12), "Wukong", lambda unit: None)[0])
    parts = [shard_trials(trials, shard, 3) for shard in range(3)]
    assert sorted(unit.folder for part in parts for unit in part) == sorted(unit.folder for unit in trials)
    assert max(map(len, parts)) < 12


def test_a_small_space_is_tried_whole_and_no_more():
    space = dataclasses.replace(SPACE, structures=(), weight_decays=(0.0,))
    tried, ended = [], []
    for number in range(space.points):
        settings = suggest_settings(space, tuple(ended), tuple(tried), 0, number)
        tried.append(settings)
        ended.append((settings, math.inf if number % 3 == 2 else float(number)))
    assert len(set(tried)) == 12
    assert len(plan_search(make_searched(models={"FM": ()}, trials=500), "FM", lambda unit: 1.0)[0]) >= 12


def test_suggestions_learn_from_losses_and_avoid_what_diverged():
    def loss(settings):
        return math.inf if settings.norm == "none" else 1.0 if dict(settings.structure)["fm"] == "full" else 2.0

    late = []
    for seed in range(3):
        ended = []
        for number in range(40):
            settings = suggest_settings(SPACE, tuple(ended), tuple(settings for settings, _ in ended), seed, number)
            ended.append((settings, loss(settings)))
        late += [value for _, value in ended[20:]]
        again = suggest_settings.__wrapped__(
            SPACE, tuple(ended[:30]), tuple(settings for settings, _ in ended[:30]), seed, 30
        )
        assert again == ended[30][0]  # a function of what it is given
    assert sum(map(math.isinf, late)) <= 20  # of 60; by chance 30, with a deviation of 4
    assert sum(value == 1 for value in late) >= 24  # by chance 15, with a deviation of 3


def test_places_invert_settings():
    settings = Settings(2.0, 0.1, "none", (("fm", "full"), ("layers", "3")), 0.01)
    assert SPACE.settings(SPACE.places(settings)) == settings
    assert SPACE.points == 3 * 2 * 2 * 2 * 2 * 3


def test_weight_decay_needs_an_adam_and_reaches_the_optimizer():
    sweep = make_searched()
    settings = next(iter(plan_search(sweep, "DNN", lambda unit: None)[0])).settings
    decayed = sweep.run_config("DNN", "m", dataclasses.replace(settings, weight_decay=0.01), 0, "rows")
    assert (decayed.optimizer.factory, decayed.optimizer.options["weight_decay"]) == ("adamw", 0.01)
    assert sweep.run_config("DNN", "m", settings, 0, "rows").optimizer.factory == "adam"


@pytest.mark.parametrize(
    ("structure", "words"),
    [
        ({"seed": 1}, "search.structure.seed = 1: is one of seeds"),
        ({"weight_decays": ()}, r"weight_decays = \[\]"),
        ({"trials": 0}, "have no effect where structure.trials is 0"),
    ],
)
def test_impossible_searches_are_refused(structure, words):
    with pytest.raises(UserError, match=words) as caught:
        make_searched(**structure)
    assert "\n" not in str(caught.value)

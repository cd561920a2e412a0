import math

import pytest
from ml_collections import ConfigDict

from wukong_jax.config import build_run_config
from wukong_jax.errors import UserError
from wukong_jax.scaling.ladders.planted_ladders import LADDERS
from wukong_jax.scaling.sweep.config import Settings, build_sweep_config, start_sweep_config
from wukong_jax.scaling.sweep.units import curve_units, due_trials, plan_search, shard_models, shard_units


def make_sweep(**changes):
    config = start_sweep_config()
    config.name, config.data_name = "a sweep", "factorized"
    config.models = {"Wukong": ("xs", "s"), "DLRM": ("s", "l"), "FM": ()}
    config.search.rates = (0.25, 0.5, 1.0, 2.0, 4.0)
    config.search.initial_scales = (0.02, 0.1)
    config.run.data.factory = "planted_clicks"
    config.run.data.options = ConfigDict({"fields": 6})
    config.run.embeddings.optimizer.kind = "lazy_adam"
    config.run.embeddings.optimizer.learning_rate = 4e-3
    config.run.optimizer.learning_rate = 1e-3
    config.run.training.batch_size = 64
    config.run.training.epochs = 1
    for key, value in changes.items():
        config[key] = ConfigDict(value) if isinstance(value, dict) else value
    return build_sweep_config(config)


def settle(model):
    """Returns the same settings for every size of a model."""
    ladder = LADDERS[model]
    return {size.name: Settings(1.0, 0.02, next(iter(ladder.norms))) for size in ladder.sizes}


def walk_search(sweep, model, loss):
    """Simulates the training that the search requests until it ends; returns the units in order, and the results."""
    known, order = {}, []
    while True:
        units, found = plan_search(sweep, model, known.get)
        if len(found) == len(sweep.sizes(model)):
            return order, found
        missing = [unit for unit in units if unit not in known]
        assert missing  # else it would ask for ever
        order += missing
        known |= {unit: loss(unit) for unit in missing}


def test_search_finds_norm_and_scale_then_the_rate_of_each_size():
    sweep = make_sweep()

    def loss(unit):
        settings, best = unit.settings, {"xs": 2.0, "s": 0.5}[unit.size]
        apart = {"token": 0.3, "flat": 0.1, "none": 0.2}[settings.norm] + abs(settings.initial_scale - 0.1)
        return apart + abs(math.log2(settings.rate / best))

    order, found = walk_search(sweep, "Wukong", loss)
    assert found == {"xs": Settings(2.0, 0.1, "flat"), "s": Settings(0.5, 0.1, "flat")}
    placed, rated = order[:6], order[6:]  # every norm with every scale at rate 1; then along the rates with the best
    assert {(unit.size, unit.settings.rate) for unit in placed} == {("xs", 1.0)}
    assert {(unit.settings.norm, unit.settings.initial_scale) for unit in rated} == {("flat", 0.1)}
    # down is worse twice, up to the end of the grid; at the next size from where that ended, and both ways
    assert [(unit.size, unit.settings.rate) for unit in rated] == [
        ("xs", 0.5), ("xs", 0.25), ("xs", 2.0), ("xs", 4.0), ("s", 2.0), ("s", 1.0), ("s", 0.5), ("s", 0.25), ("s", 4.0)
    ]  # fmt: skip


def climb(losses):
    """Returns the rates that are tried, and the one that is chosen, for given losses by rate."""
    sweep = make_sweep(search={"rates": tuple(losses), "initial_scales": (0.02,)})
    order, found = walk_search(sweep, "FM", lambda unit: losses[unit.settings.rate])
    return [unit.settings.rate for unit in order], found["only"].rate


def test_a_lower_rate_that_is_better_by_luck_does_not_hide_a_higher_one():
    losses = {0.25: 0.6, 0.5: 0.4999, 1.0: 0.5, 2.0: 0.5, 4.0: 0.3, 8.0: 0.2}
    assert climb(losses) == ([1.0, 0.5, 0.25, 2.0, 4.0, 8.0], 8.0)


def test_one_unlucky_rate_does_not_end_the_climb():
    losses = {0.25: 0.5, 0.5: 0.6, 1.0: 0.4, 2.0: 0.45, 4.0: 0.3, 8.0: 0.7}
    assert climb(losses) == ([1.0, 0.5, 0.25, 2.0, 4.0, 8.0], 4.0)
    assert climb({rate: loss + (0.2 if rate > 2 else 0) for rate, loss in losses.items()})[1] == 1.0


def test_a_search_over_a_part_of_the_rows_has_units_of_its_own():
    sweep = make_sweep(search={"steps": 40})
    searched, found = walk_search(sweep, "Wukong", lambda unit: unit.settings.rate)
    assert {unit.steps for unit in searched} == {40}
    units = curve_units(sweep, {"Wukong": found})
    assert {unit.steps for unit in units} == {0}
    assert not {unit.folder for unit in units} & {unit.folder for unit in searched}


def test_rates_stay_on_the_grid():
    sweep = make_sweep(search={"rates": (2.0, 0.5, 1.0), "initial_scales": (0.02,)})
    for direction, end in ((1, 0.5), (-1, 2.0)):
        order, found = walk_search(sweep, "DLRM", lambda unit, sign=direction: sign * unit.settings.rate)
        assert {settings.rate for settings in found.values()} == {end}
        assert {unit.settings.rate for unit in order} <= {0.5, 1.0, 2.0}


def test_every_model_gets_as_many_trials_where_none_is_better():
    sweep = make_sweep(models={model: () for model in LADDERS})
    trials = {model: len(walk_search(sweep, model, lambda unit: 1.0)[0]) for model in sweep.models}
    points = ("FM", "logistic regression")
    # 6 places, 2 rates on either side of 1, and 5 rates at each larger size
    assert {
        model: trials[model] - 5 * len(sweep.sizes(model)) for model in trials if model not in points
    } == dict.fromkeys((model for model in trials if model not in points), 5)
    assert {trials[model] for model in points} == {2 + 4}  # no norm to place


def test_exploded_trials_lose():
    sweep = make_sweep()
    _, found = walk_search(sweep, "DLRM", lambda unit: math.inf if unit.settings.norm != "pairs" else 0.5)
    assert found["s"] == Settings(1.0, 0.02, "pairs")
    _, found = walk_search(sweep, "DLRM", lambda unit: math.inf)
    assert found["s"] == Settings(1.0, 0.02, "none")
    # too high a rate at the larger size: down to where it trains
    _, found = walk_search(
        sweep, "DLRM", lambda unit: math.inf if unit.size == "l" and unit.settings.rate > 0.5 else 0.5
    )
    assert found["l"].rate == 0.5


def test_curves_share_the_searches_units_and_put_seeds_outermost():
    sweep = make_sweep(seeds=(3, 4))
    searched, found = walk_search(sweep, "Wukong", lambda unit: unit.settings.rate)
    units = curve_units(sweep, {"Wukong": found})
    assert [(unit.size, unit.seed) for unit in units] == [("xs", 3), ("s", 3), ("xs", 4), ("s", 4)]
    assert set(units[:2]) <= set(searched)
    assert curve_units(sweep, {"Wukong": {"xs": found["xs"]}}) == units[::2]  # what is not found has no curve yet


def test_due_trials_put_small_sizes_first():
    sweep = make_sweep()
    known = {unit: 1.0 for unit in walk_search(sweep, "Wukong", lambda unit: 1.0)[0]}
    sizes = [(unit.model, unit.size) for unit in due_trials(sweep, ["Wukong", "DLRM"], known.get)]
    assert sizes.index(("Wukong", "s")) > max(i for i, size in enumerate(sizes) if size == ("DLRM", "s"))


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_shards_part_the_work_whatever_is_found_so_far(shards):
    sweep = make_sweep(models={model: () for model in LADDERS})
    settings = {model: settle(model) for model in LADDERS}
    some = {model: settings[model] for model in list(settings)[::2]}
    parts = [set(shard_units(curve_units(sweep, settings), shard, shards)) for shard in range(shards)]
    assert sum(map(len, parts)) == len(set().union(*parts)) == len(curve_units(sweep, settings))
    for shard, part in enumerate(parts):
        assert part
        assert set(shard_units(curve_units(sweep, some), shard, shards)) <= part
    searched = [shard_models(list(LADDERS), shard, shards) for shard in range(shards)]
    assert sorted(model for part in searched for model in part) == sorted(LADDERS)


def test_folders_differ_wherever_units_do():
    sweep = make_sweep(models={model: () for model in LADDERS})
    units = [
        unit
        for model in LADDERS
        for unit in [
            *walk_search(sweep, model, lambda unit: 1.0)[0],
            *curve_units(sweep, {model: settle(model)}),
        ]
    ]
    assert len({str(unit.folder) for unit in units}) == len(set(units))


def test_run_of_a_unit_has_its_model_and_settings_and_the_sweeps_rows():
    sweep = make_sweep()
    run = sweep.run_config("Wukong", "s", Settings(2.0, 0.1, "flat"), 7, "elsewhere")
    assert run.model.factory == "wukong_jax.models.wukong:build"
    assert run.model.options["norm"] == "flat"
    assert run.model.options["rank"] == LADDERS["Wukong"].size("s").options["rank"]
    assert (run.optimizer.learning_rate, run.embeddings.optimizer.learning_rate) == (2e-3, 8e-3)
    assert (run.embeddings.initial_scale, run.seed, run.embeddings.width) == (0.1, 7, 16)
    assert (run.data.factory, run.data.path) == ("blocks", "elsewhere")
    assert sweep.data_config().factory == "planted_clicks"
    assert sweep.run_config("FM", "only", Settings(1.0, 0.1, "none"), 7, "elsewhere").embeddings.width == 17
    assert build_run_config(sweep.run | {"name": "same"} | {"embeddings": sweep.run["embeddings"] | {"width": 3}})


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"models": {"Wukongg": ()}}, r"config.models: 'Wukongg' has no ladder; known are .*DLRM \(Criteo\)"),
        ({"models": {"Wukong": ("xxs",)}}, r"config.models.Wukong: no size 'xxs'; its ladder has xs, s"),
        ({"models": {}}, "models = {}"),
        ({"seeds": (1, 1)}, r"seeds = \[1, 1\]"),
        ({"search": {"steps": -1}}, r"steps = -1: must be at least 0"),
        ({"reference": "Wukong "}, r"reference = 'Wukong ': not one of the sweep's models, DLRM, FM, Wukong"),
        ({"search": {"rates": (0.5,)}}, r"rates = \[0.5\]: none twice, and 1 among them"),
        ({"search": {"initial_scales": (-1.0,)}}, r"initial_scales = \[-1.0\]"),
    ],
)
def test_wrong_sweeps_are_refused_by_name(changes, word):
    with pytest.raises(UserError, match=word):
        make_sweep(**changes)


def test_wrong_run_of_a_sweep_is_refused_before_anything_is_trained():
    sweep = make_sweep().run
    config = start_sweep_config().to_dict() | {
        "name": "a", "data_name": "b", "models": {"DLRM": ()}, "run": {**sweep, "training": {"batch_size": 64}}
    }  # fmt: skip
    with pytest.raises(UserError, match="steps = None: give steps or epochs"):
        build_sweep_config(config)

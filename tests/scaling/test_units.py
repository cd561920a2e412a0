import math

import pytest
from ml_collections import ConfigDict

from wukong_jax.config import build_run_config
from wukong_jax.errors import UserError
from wukong_jax.scaling.ladders import LADDERS
from wukong_jax.scaling.sweep_config import Settings, build_sweep_config, start_sweep_config
from wukong_jax.scaling.units import check_units, curve_units, plan_search, shard_models, shard_units


def make_sweep(**changes):
    config = start_sweep_config()
    config.name, config.data_name = "a sweep", "factorized"
    config.models = {"Wukong": ("xs", "s"), "DLRM": ("s", "l"), "FM": ()}
    config.search.rates = (1.0, 0.5, 2.0)
    config.search.initial_scales = (0.02, 0.1)
    config.run.data.format = "planted_clicks"
    config.run.data.planted = ConfigDict({"fields": 6})
    config.run.embeddings.optimizer.kind = "lazy_adam"
    config.run.embeddings.optimizer.learning_rate = 4e-3
    config.run.optimizer.learning_rate = 1e-3
    config.run.training.batch_size = 64
    config.run.training.epochs = 1
    for key, value in changes.items():
        config[key] = ConfigDict(value) if isinstance(value, dict) else value
    return build_sweep_config(config)


def walk_search(sweep, model, loss):
    """Trains (in thought) what the search asks for until it has found; returns the units in order, and the find."""
    known, order = {}, []
    while True:
        units, found = plan_search(sweep, model, known.get)
        if found is not None:
            return order, found
        missing = [unit for unit in units if unit not in known]
        assert missing  # else it would ask for ever
        order += missing
        known |= {unit: loss(unit) for unit in missing}


def test_search_finds_norm_and_scale_then_the_rate():
    sweep = make_sweep()

    def loss(unit):
        settings = unit.settings
        apart = {"token": 0.3, "flat": 0.1, "none": 0.2}[settings.norm] + abs(settings.initial_scale - 0.1)
        return apart + abs(settings.rate - 2.0)

    order, found = walk_search(sweep, "Wukong", loss)
    assert found == Settings(2.0, 0.1, "flat")
    assert len(order) == 3 * 2 + 2  # every norm with every scale at rate 1; the two other rates with the best
    assert {unit.size for unit in order} == {"xs"}
    assert {unit.settings.rate for unit in order[:6]} == {1.0}
    assert {(unit.settings.norm, unit.settings.initial_scale) for unit in order[6:]} == {("flat", 0.1)}


def test_every_model_gets_as_many_trials():
    sweep = make_sweep(models={model: () for model in LADDERS})
    trials = {model: len(walk_search(sweep, model, lambda unit: 1.0)[0]) for model in sweep.models}
    points = ("FM", "logistic regression")
    assert {trials[model] for model in trials if model not in points} == {8}
    assert {trials[model] for model in points} == {2 + 2}  # no norm to place


def test_exploded_trials_lose():
    sweep = make_sweep()
    _, found = walk_search(sweep, "DLRM", lambda unit: math.inf if unit.settings.norm != "pairs" else 0.5)
    assert found == Settings(1.0, 0.02, "pairs")
    _, found = walk_search(sweep, "DLRM", lambda unit: math.inf)
    assert found == Settings(1.0, 0.02, "none")


def test_curves_share_the_searches_unit_and_put_seeds_outermost():
    sweep = make_sweep(seeds=(3, 4))
    searched, found = walk_search(sweep, "Wukong", lambda unit: unit.settings.rate)
    units = curve_units(sweep, {"Wukong": found})
    assert [(unit.size, unit.seed) for unit in units] == [("xs", 3), ("s", 3), ("xs", 4), ("s", 4)]
    assert units[0] in searched


def test_check_of_the_largest_moves_the_rate_alone():
    sweep = make_sweep(search={"check_largest": True, "rates": (1.0,), "initial_scales": (0.02,)})
    found = Settings(2.0, 0.02, "token")
    assert [(u.size, u.settings.rate, u.settings.norm) for u in check_units(sweep, "Wukong", found)] == [
        ("s", 1.0, "token"),
        ("s", 4.0, "token"),
    ]
    assert check_units(sweep, "FM", Settings(1.0, 0.02, "none")) == []  # one size


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_shards_part_the_work_whatever_is_found_so_far(shards):
    sweep = make_sweep(models={model: () for model in LADDERS})
    settings = {model: Settings(1.0, 0.02, next(iter(LADDERS[model].norms))) for model in LADDERS}
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
            *curve_units(sweep, {model: Settings(1.0, 0.02, next(iter(LADDERS[model].norms)))}),
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
    assert (run.data.format, run.data.path) == ("blocks", "elsewhere")
    assert sweep.data_config().format == "planted_clicks"
    assert sweep.run_config("FM", "only", Settings(1.0, 0.1, "none"), 7, "elsewhere").embeddings.width == 17
    assert build_run_config(sweep.run | {"name": "same"} | {"embeddings": sweep.run["embeddings"] | {"width": 3}})


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"models": {"Wukongg": ()}}, "config.models: 'Wukongg' has no ladder"),
        ({"models": {"Wukong": ("xxs",)}}, "size 'xxs': the ladder has xs, s"),
        ({"models": {}}, "models = {}"),
        ({"seeds": (1, 1)}, r"seeds = \[1, 1\]"),
        ({"search": {"rates": (0.5,)}}, r"rates = \[0.5\]: above 0, and 1 among them"),
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

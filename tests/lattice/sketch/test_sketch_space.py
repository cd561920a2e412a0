import json

import pytest
from ml_collections import ConfigDict

from lattice.sketch.space import ParameterRange, build_sketch_config, start_sketch_config
from wukong_jax.config import build_run_config
from wukong_jax.errors import UserError
from wukong_jax.strict_mapping import to_mapping


def make_config(space=None, **search):
    config = start_sketch_config()
    config.name = "a run"
    config.data.factory = "planted_clicks"
    config.data.options = ConfigDict({"fields": 4, "values_per_field": 5, "train_rows": 1500})
    config.embeddings.width = 8
    config.embeddings.optimizer.kind = "sgd"
    config.embeddings.optimizer.learning_rate = 0.1
    config.model.options = {"layers": 2, "fmb_tokens": 16, "lcb_tokens": 16, "head_hidden": (64, 32), "norm": "token"}
    config.training.batch_size = 128
    config.training.epochs = 1
    if space is None:
        space = {
            "embeddings": {"width": {"low": 4, "high": 16, "step": 4}},
            "model": {"options": {"layers": {"low": 1, "high": 4}, "norm": {"choices": ("token", "none")}}},
        }
    config.search.space = space
    for key, value in search.items():
        config.search[key] = value
    return config


def test_point_of_the_space_is_the_run_with_those_keys():
    sketch = build_sketch_config(make_config())
    assert sketch.hand_made == {"embeddings.width": 8, "model.options.layers": 2, "model.options.norm": "token"}
    as_written = make_config().to_dict()
    del as_written["search"]
    assert to_mapping(sketch.build_run(sketch.hand_made)) == json.loads(
        json.dumps(to_mapping(build_run_config(as_written)))
    )
    run = sketch.build_run({**sketch.hand_made, "embeddings.width": 12, "model.options.layers": 4})
    assert run.embeddings.width == 12
    assert run.model.options["layers"] == 4
    assert sketch.hand_made["model.options.layers"] == 2  # points do not touch each other


def test_trials_read_one_folder_of_rows():
    sketch = build_sketch_config(make_config())
    data = sketch.build_run(sketch.hand_made, "rows").data
    assert (data.factory, data.path, data.options) == ("blocks", "rows", {})


def test_lists_are_reached_by_place_and_keys_share_a_value():
    space = {
        "model.options.head_hidden.1": {"low": 16, "high": 64, "step": 16, "log": True},
        "model": {"options": {"fmb_tokens": {"low": 4, "high": 16, "also": ("model.options.lcb_tokens",)}}},
    }
    # ConfigDict takes no dotted names, a mapping read from JSON does
    sketch = build_sketch_config({**make_config().to_dict(), "search": {"space": space}})
    run = sketch.build_run({"model.options.head_hidden.1": 48, "model.options.fmb_tokens": 5})
    assert run.model.options["head_hidden"] == [64, 48]
    assert run.model.options["fmb_tokens"] == run.model.options["lcb_tokens"] == 5


def test_search_written_as_json_is_the_same_search():
    sketch = build_sketch_config(make_config(budget_flops=1e5, trials=7))
    plain = json.loads(json.dumps(to_mapping(sketch)))
    assert build_sketch_config({**plain["run"], "search": plain["search"]}) == sketch
    assert sketch.search.budget.flops == 1e5


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"embeddings": {"width": {"low": 16, "high": 32}}}, "embeddings.width: the run has 8, outside 16 to 32"),
        ({"embeddings": {"width": {"low": 3, "high": 15, "step": 3}}}, "the run has 8, no multiple of 3"),
        ({"model": {"options": {"norm": {"choices": ("flat",)}}}}, "the run has 'token', not one of \"flat\""),
        ({"model": {"options": {"rank": {"low": 1, "high": 9}}}}, "config.model.options.rank is not set"),
        ({"model": {"options": {"head_hidden": {"2": {"low": 1, "high": 9}}}}}, "head_hidden.2 is not set"),
        ({"embeddings": {"width": {"low": 4, "high": 16, "steps": 4}}}, "steps = 4: unknown key; did you mean 'step'"),
        ({"embeddings": {"width": {"low": 8, "high": 8}}}, "embeddings.width.low = 8: must be below high = 8"),
        ({"embeddings": {"width": {"low": 4}}}, "width.high = None: expected a number"),
        ({"embeddings": {"width": {"low": 0, "high": 9, "log": True}}}, "low = 0: above 0 with log"),
        ({"embeddings": {"width": {"low": 4, "high": 18, "step": 4}}}, "step = 4: at least 1, and low = 4 and high"),
        ({"embeddings": {"width": {"low": 4.0, "high": 9.5, "step": 2}}}, "step = 2: only for whole numbers"),
        ({"embeddings": {"width": {"choices": (8, 16), "log": True}}}, "choices: have no low, high, step or log"),
        ({"embeddings": {"width": {"choices": (8, 8)}}}, "choices = .8, 8.: none twice"),
        ({"name": {"choices": ("a run", "b")}}, "space.name: every trial reads the same rows under one name"),
        (
            {"embeddings": {"width": {"low": 4, "high": 9, "also": ("training.batch_size",)}}},
            "also: the run has 8 there and training.batch_size = 128",
        ),
        ({}, "space = {}: name one or more keys"),
    ],
)
def test_space_that_cannot_be_searched_is_refused(space, message):
    with pytest.raises(UserError, match=message):
        build_sketch_config(make_config(space))


def test_order_of_the_keys_has_no_part_in_the_search():
    widths = {"embeddings.width": {"low": 4, "high": 16}, "model.options.layers": {"low": 1, "high": 4}}
    searches = [
        build_sketch_config({**make_config().to_dict(), "search": {"space": dict(items)}}).search
        for items in (widths.items(), reversed(widths.items()))
    ]
    assert list(searches[0].space) == list(searches[1].space)


def test_key_searched_twice_is_refused():
    space = {
        "model": {
            "options": {
                "fmb_tokens": {"low": 4, "high": 16, "also": ("model.options.lcb_tokens",)},
                "lcb_tokens": {"low": 4, "high": 16},
            }
        }
    }
    with pytest.raises(UserError, match="lcb_tokens is searched twice"):
        build_sketch_config(make_config(space))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("trials", 0, "search.trials = 0: must be at least 1"),
        ("rungs", (0.5, 1.0), "must be all above 0 and below 1"),
        ("budget_flops", 0.0, "budget_flops = 0.0: must be above 0"),
        ("budget_milliseconds", -1.0, "budget_milliseconds = -1.0: must be above 0"),
        ("latency_rows", 64, "nothing is timed without budget_milliseconds"),
        ("exponent", -1.0, "exponent = -1.0: must be at least 0"),
    ],
)
def test_options_out_of_range_are_refused(key, value, message):
    with pytest.raises(UserError, match=message):
        build_sketch_config(make_config(**{key: value}))


def test_config_without_a_search_is_refused():
    plain = make_config().to_dict()
    del plain["search"]
    with pytest.raises(UserError, match=r"config\.search: missing"):
        build_sketch_config(plain)
    with pytest.raises(UserError, match=r"config\.search\.prunner = 'median': unknown key"):
        build_sketch_config(
            {**plain, "search": {"space": {"embeddings.width": {"low": 4, "high": 8}}, "prunner": "median"}}
        )


@pytest.mark.parametrize(
    ("value", "why"), [(0.5, ""), (1, ""), (2.5, "outside 0.1 to 2.0"), (True, "expected a number")]
)
def test_real_ranges_hold_numbers(value, why):
    assert ParameterRange(low=0.1, high=2.0, log=True).explain_outside(value) == why

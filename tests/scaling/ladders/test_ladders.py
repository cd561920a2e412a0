import importlib
import itertools

import pytest

from wukong_jax.errors import UserError
from wukong_jax.models.cost import count_cost
from wukong_jax.models.shape import ModelShape
from wukong_jax.scaling.ladders.criteo import CRITEO
from wukong_jax.scaling.ladders.planted_ladders import LADDERS, find_ladder
from wukong_jax.scaling.ladders.searched import SEARCHED
from wukong_jax.scaling.ladders.wukong import ABLATIONS, DEPTHS, KNOBS

ALL = [*LADDERS, *ABLATIONS, *KNOBS, *DEPTHS]


def count(ladder, size, norm):
    shape = ModelShape(0, 16, ladder.width, 1)
    module = importlib.import_module(ladder.factory.partition(":")[0])
    return count_cost(module.build({**size.options, **ladder.norms[norm]}, shape), shape, batch=64)


def test_names_mean_one_ladder_each():
    assert len({*ALL, *CRITEO}) == len(ALL) + len(CRITEO)


@pytest.mark.parametrize("model", CRITEO)
def test_criteo_ladders_rise_and_pass_by_the_papers_counts(model):
    ladder = find_ladder(model)
    shape = ModelShape(13, 26, ladder.width, 1)
    build = importlib.import_module(ladder.factory.partition(":")[0]).build
    norm = next(iter(ladder.norms.values()))
    costs = [count_cost(build({**size.options, **norm}, shape), shape, batch=8) for size in ladder.sizes]
    flops = [cost.train_flops_per_example for cost in costs]
    assert all(small < large for small, large in itertools.pairwise(flops))
    if model == "DLRM (Criteo)":
        assert costs[0].dense_parameters == 680_321
    if model == "DCNv2 (Criteo)":
        assert costs[1].dense_parameters == 43_737_217
    if model == "Wukong (Criteo)":
        assert flops[0] < 173.73e6 < flops[-1]


@pytest.mark.parametrize("model", ALL)
def test_every_size_builds_with_every_norm_and_costs_more_than_the_one_before(model):
    ladder = find_ladder(model)
    flops = [[count(ladder, size, norm).train_flops_per_example for norm in ladder.norms] for size in ladder.sizes]
    assert all(max(row) <= 1.02 * min(row) for row in flops)  # norms add no products
    assert all(small[0] < large[0] for small, large in itertools.pairwise(flops))


def test_ladders_span_two_orders_of_magnitude_of_compute():
    for model, ladder in LADDERS.items():
        if len(ladder.sizes) > 1:
            usual = next(iter(ladder.norms))
            flops = [count(ladder, size, usual).train_flops_per_example / 1e6 for size in ladder.sizes]
            assert 0.04 < flops[0] < 0.1, model
            assert 3 < flops[-1] < 6, model
    assert [len(LADDERS[model].sizes) for model in ("Wukong", "DLRM", "FM")] == [5, 3, 1]


def test_knobs_grow_what_they_say():
    assert [size.options["layers"] for size in KNOBS["layers"].sizes] == [4, 8]
    assert [size.options["fmb_hidden"] for size in KNOBS["MLP"].sizes] == [(256,), (512,)]
    assert {size.options["rank"] for size in KNOBS["MLP"].sizes} == {8}
    assert KNOBS["all"].sizes[0].options == {
        "layers": 4,
        "fmb_tokens": 16,
        "lcb_tokens": 16,
        "rank": 16,
        "fmb_hidden": (256,),
        "head_hidden": (256,),
    }


@pytest.mark.parametrize("model", SEARCHED)
def test_searched_ladders_rise_and_every_structure_builds_at_every_size(model):
    ladder = find_ladder(model, "searched")
    build = importlib.import_module(ladder.factory.partition(":")[0]).build
    shape = ModelShape(0, 9, ladder.width, 1)
    usual = {choice: next(iter(names)) for choice, names in ladder.structures.items()}
    chosen = [usual, *(usual | {choice: name} for choice, names in ladder.structures.items() for name in names)]
    for norm in ladder.norms.values():
        for names in chosen if norm is next(iter(ladder.norms.values())) else [usual]:
            options = ladder.structure_options(names)
            flops = [
                count_cost(build({**size.options, **norm, **options}, shape), shape, batch=8).train_flops_per_example
                for size in ladder.sizes
            ]
            assert all(small < large for small, large in itertools.pairwise(flops)), names
            if names is usual and len(flops) > 1:
                assert 0.01e6 < flops[0] < 0.05e6
                assert 2.5e6 < flops[-1] < 5e6


def test_no_searched_size_sets_what_decides_the_orders():
    deciding = {"DCNv2": "cross_layers", "Wukong": "layers"}
    for model, option in deciding.items():
        assert not any(option in size.options for size in SEARCHED[model].sizes)
    assert len({len(size.options["cin_maps"]) for size in SEARCHED["xDeepFM"].sizes}) == 1


def test_an_unknown_alternative_is_named():
    with pytest.raises(UserError, match="structure fm = 'half': the ladder has static 8, static 4"):
        SEARCHED["Wukong"].structure_options({"fm": "half"})

"""Tests that no step lowered for GPUs adds to places that several values may share; needs no GPU and no compiler."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.test_train_step import make_config, make_schema
from wukong_jax.data.blocks.batch import BagShare
from wukong_jax.embeddings import exchange
from wukong_jax.metrics.accumulate import compute_metric_sums
from wukong_jax.training.run import Run, build_run

# A scatter prints its attributes on the first line and ends with its types; its region adds, or returns an argument.
SCATTER = re.compile(r'"stablehlo\.scatter"\(.*?<\{(.*?)\}>\s*\(\{(.*?)\}\)\s*:', re.DOTALL)
OPTIMIZERS = ("sgd", "adagrad", "rowwise_adagrad", "lazy_adam")


def find_shared_additions(function, *arguments) -> list[str]:
    """The scatters of a jitted function lowered for CUDA that combine values and may meet a place twice."""
    text = function.trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    scatters = SCATTER.findall(text)
    assert len(scatters) == text.count('"stablehlo.scatter"(')
    return [
        f"{attributes} {region}"
        for attributes, region in scatters
        if "unique_indices = true" not in attributes and re.search(r"stablehlo\.(add|maximum|minimum|multiply)", region)
    ]


def build_run_for_gpus(monkeypatch, pooling: str, **settings) -> Run:
    monkeypatch.setattr(exchange, "choose_merge", lambda platform: "sort")  # as on GPUs
    config = make_config(**settings)
    config = dataclasses.replace(config, embeddings=dataclasses.replace(config.embeddings, pooling=pooling))
    return build_run(config, make_schema(100))


@pytest.mark.parametrize("pooling", ["sum", "mean"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_train_step_makes_none(monkeypatch, optimizer, pooling):
    run = build_run_for_gpus(monkeypatch, pooling, optimizer=optimizer)
    assert find_shared_additions(run.jit_train_step(), *run.abstract_inputs()) == []


def test_train_step_with_bags_laid_flat_makes_none(monkeypatch):
    run = build_run_for_gpus(monkeypatch, "mean")
    assert any(field.pools for field in run.layout.fields)
    state, batch = run.abstract_inputs()
    assert find_shared_additions(run.jit_train_step(), state, batch._replace(bag_share=BagShare(0.5))) == []


def test_predict_step_makes_none(monkeypatch):
    run = build_run_for_gpus(monkeypatch, "mean")
    state, batch = run.abstract_inputs()
    arguments = state.params, state.statistics, state.tables, batch
    assert find_shared_additions(run.predict_step, *arguments) == []


def make_scores(domains: int) -> tuple:
    rng = np.random.default_rng(0)
    column = jnp.ones((64, 2), jnp.float32)
    return column, column, column, column[:, 0], jnp.asarray(rng.integers(0, domains, 64), jnp.int32)


@pytest.mark.parametrize("domains", [1, 3])
def test_evaluation_makes_none(monkeypatch, domains):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    compute = functools.partial(compute_metric_sums, domains=domains)
    assert find_shared_additions(jax.jit(compute), *make_scores(domains)) == []


def test_an_addition_to_shared_places_is_found():
    places, values = jnp.zeros(8, jnp.int32), jnp.ones(8)
    assert len(find_shared_additions(jax.jit(lambda p, v: jnp.zeros(3).at[p].add(v)), places, values)) == 1
    assert find_shared_additions(jax.jit(lambda p, v: jnp.zeros(3).at[p].set(v)), places, values) == []

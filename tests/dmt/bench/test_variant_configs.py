"""Tests the benchmark's configs: variants of a shipped config on the cluster's mesh, from JSON to a compiled step."""

import pytest

from dmt.bench.step_times import list_variants
from dmt.bench.variant_configs import place_variant
from dmt.bench.worker import Bench
from wukong_jax.config_files import load_config
from wukong_jax.errors import UserError


def test_a_variant_is_placed_and_compiles_on_the_mesh():
    small = {"embeddings.width": 8, "data.options.train_rows": 512, "training.steps": 1, "training.epochs": None}
    variant = next(variant for variant in list_variants([4]) if variant.name == "towers / 4")
    config = place_variant(load_config(f"dmt/planted:{variant.config}", small), variant, hosts=2, chips=4, batch=64)
    assert (config["mesh"]["hosts"], config["mesh"]["chips"], config["training"]["batch_size"]) == (2, 4, 64)
    built = Bench().build("towers / 4", config)
    assert built["flops"] > 0
    assert any(row["purpose"] == "embeddings" for row in built["traffic"])


@pytest.mark.parametrize(("name", "overrides"), [("criteo_10k", {"data.path": "x"}), ("dmt/planted", {})])
def test_rows_that_the_bench_cannot_use_are_refused(name, overrides):
    with pytest.raises(UserError, match="needs planted clicks"):
        place_variant(load_config(name, overrides), list_variants([4])[0], 2, 4, batch=200_000)

import json
import runpy

import pytest
from ml_collections import ConfigDict

from lattice.sketch.space import build_sketch_config
from tests.repository import CONFIGS as CONFIGS_FOLDER
from wukong_jax.config import (
    build_run_config,
    compare_run_configs,
    run_config_to_json,
    start_config,
)
from wukong_jax.errors import UserError
from wukong_jax.scaling.sweep.config import Settings, build_sweep_config

CONFIGS = sorted(CONFIGS_FOLDER.glob("*.py"))


def make_config(**changes) -> ConfigDict:
    config = start_config()
    config.name = "made up"
    config.data.format, config.data.path = "blocks", "somewhere"
    config.embeddings.width = 8
    config.embeddings.optimizer.kind, config.embeddings.optimizer.learning_rate = "sgd", 0.1
    config.training.batch_size, config.training.steps = 4, 10
    config.update_from_flattened_dict(changes)
    return config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_file_builds(path):
    namespace = runpy.run_path(str(path))
    loaded = namespace["get_config"]()
    if "run" in loaded:  # a sweep's
        sweep = build_sweep_config(loaded)
        for model in sweep.models:
            for size in sweep.sizes(model):
                for norm in sweep.ladder(model).norms:
                    sweep.run_config(model, size.name, Settings(1.0, 0.02, norm), 0, "rows")
        return
    if "search" in loaded:  # of sizes
        assert build_sketch_config(loaded)
        return
    if not loaded.data.format.startswith("planted_"):
        loaded.data.path = "given by the user"
    built = build_run_config(loaded)
    header = namespace["__doc__"]
    assert "Command:" in header
    again = build_run_config(json.loads(run_config_to_json(built)))
    assert compare_run_configs(again, built) == ({}, {})


def test_a_required_key_that_was_not_set_is_named():
    config = make_config()
    config.embeddings.width = None
    with pytest.raises(UserError, match=r"config\.embeddings\.width: missing"):
        build_run_config(config)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data.format": "csv"}, r"config\.data\.format = 'csv'"),
        ({"data.schema": "criteo"}, "blocks carry their own schema"),
        ({"data.format": "raw"}, "schema = ''"),
        ({"data.format": "planted_clicks"}, "generator's settings"),
        ({"data.path": ""}, r"--config\.data\.path"),
        ({"training.steps": None}, "steps or epochs"),
        ({"training.batch_size": 0}, r"config\.training\.batch_size = 0"),
        ({"training.plateau_factor": 1.5}, "plateau_factor"),
        ({"mesh.hosts": 0}, r"config\.mesh\.hosts = 0"),
        ({"embeddings.optimizer.kind": "adam"}, r"config\.embeddings\.optimizer\.kind = 'adam'"),
        ({"embeddings.optimizer.learning_rate": -1.0}, r"config\.embeddings\.optimizer\.learning_rate"),
    ],
)
def test_mistakes_are_refused_by_key(changes, words):
    with pytest.raises(UserError, match=words):
        build_run_config(make_config(**changes))


def test_what_may_change_and_what_may_not_when_a_run_goes_on():
    old = build_run_config(make_config())
    new = build_run_config(
        make_config(
            **{"training.steps": 20, "mesh.hosts": 2, "data.path": "moved", "training.batch_size": 8, "seed": 1}
        )
    )
    allowed, refused = compare_run_configs(old, new)
    assert set(allowed) == {"training.steps", "mesh.hosts", "data.path"}
    assert refused == {"training.batch_size": (4, 8), "seed": (0, 1)}

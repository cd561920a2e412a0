import json

import pytest
from ml_collections import ConfigDict

from lattice.sketch.space import build_sketch_config
from wukong_jax.config import (
    build_run_config,
    compare_run_configs,
    run_config_to_json,
    start_config,
)
from wukong_jax.config_files import list_shipped_configs, load_config
from wukong_jax.errors import UserError
from wukong_jax.scaling.sweep.config import Settings, build_sweep_config


def make_config(**changes) -> ConfigDict:
    config = start_config()
    config.name = "made up"
    config.data.factory, config.data.path = "blocks", "somewhere"
    config.embeddings.width = 8
    config.embeddings.optimizer.kind, config.embeddings.optimizer.learning_rate = "sgd", 0.1
    config.training.batch_size, config.training.steps = 4, 10
    config.update_from_flattened_dict(changes)
    return config


@pytest.mark.parametrize("name", list_shipped_configs())
def test_every_shipped_config_builds(name):
    loaded = load_config(name)
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
    if not loaded.data.factory.startswith("planted_"):
        loaded.data.path = "given by the user"
        loaded.data.schema = loaded.data.schema or ("given.json" if loaded.data.factory == "raw" else "")
    built = build_run_config(loaded)
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
        ({"data.factory": "csv"}, r"config\.data\.factory = 'csv'.*'raw' or 'blocks'"),
        ({"data.factory": ""}, r"config\.data\.factory = ''"),
        ({"data.schema": "criteo"}, "blocks carry their own schema"),
        ({"data.options": ConfigDict({"on_bad_row": "skip"})}, r"config\.data\.options\.on_bad_row: 'blocks' has no"),
        ({"data.factory": "raw"}, "schema = ''"),
        ({"data.factory": "planted_clicks"}, r"config\.data\.path = 'somewhere': 'planted_clicks' reads no files"),
        ({"data.path": ""}, r"--config\.data\.path"),
        ({"data.window_rows": 0}, r"config\.data\.window_rows = 0"),
        ({"data.join.options": ConfigDict({"store": "x"})}, r"config\.data\.join\.factory = ''"),
        ({"training.steps": None}, "steps or epochs"),
        ({"training.steps": 0}, r"config\.training\.steps = 0: must be at least 1"),
        ({"training.batch_size": 0}, r"config\.training\.batch_size = 0"),
        ({"training.plateau_factor": 1.5}, "plateau_factor"),
        ({"mesh.hosts": 0}, r"config\.mesh\.hosts = 0"),
        ({"embeddings.optimizer.kind": "adam"}, r"config\.embeddings\.optimizer\.kind = 'adam'"),
        ({"embeddings.optimizer.learning_rate": -1.0}, r"config\.embeddings\.optimizer\.learning_rate"),
        ({"optimizer.learning_rate": 0.0}, r"config\.optimizer\.learning_rate = 0\.0: must be above 0"),
        ({"optimizer.clip_norm": -1.0}, r"config\.optimizer\.clip_norm = -1\.0"),
        ({"optimizer.schedule": "cosine"}, r"config\.optimizer\.decay_steps = 0"),
        ({"optimizer.decay_steps": 5}, r"config\.optimizer\.decay_steps = 5"),
        ({"optimizer.hold_steps": 5}, r"config\.optimizer\.hold_steps = 5"),
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

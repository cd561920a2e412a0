"""Tests factories of parts named in a config, and their companion functions."""

import pytest

from wukong_jax.config import build_run_config
from wukong_jax.errors import UserError
from wukong_jax.factories import find_companion, load_factory
from wukong_jax.training.network import resolve_model_options

KEY = "config.model.factory"


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """Creates two external modules: a factory with a companion, and one that only re-exports the factory."""
    (tmp_path / "outside_model.py").write_text(
        "def build(options, shape):\n    return options\n\n\n"
        "def resolve_options(options):\n    return {**options, 'words': open(options['words']).read().split()}\n"
    )
    (tmp_path / "outside_alias.py").write_text("from outside_model import build\n\n__all__ = ['build']\n")
    (tmp_path / "words.txt").write_text("red green")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def config_of(factory, options):
    embeddings = {"width": 8, "optimizer": {"kind": "sgd", "learning_rate": 0.1}}
    return build_run_config(
        {
            "name": "outside",
            "data": {"format": "blocks", "path": "unused"},
            "embeddings": embeddings,
            "model": {"factory": factory, "options": options},
            "optimizer": {"learning_rate": 0.1},
            "training": {"batch_size": 8, "evaluation_batch_size": 8, "steps": 1},
        }
    )


def test_a_config_keeps_the_contents_of_files_that_a_models_options_name(outside):
    config = config_of("outside_model:build", {"words": str(outside / "words.txt")})
    assert resolve_model_options(config).model.options == {"words": ["red", "green"]}


def test_options_without_a_companion_stay_as_they_are():
    config = config_of("wukong_jax.models.wukong:build", {"layers": 2})
    assert resolve_model_options(config) is config


def test_a_companion_stands_in_the_module_that_the_name_names(outside):
    assert find_companion(KEY, "outside_model:build", "resolve_options") is not None
    assert load_factory(KEY, "outside_alias:build") is load_factory(KEY, "outside_model:build")
    assert find_companion(KEY, "outside_alias:build", "resolve_options") is None


@pytest.mark.parametrize(
    "name", ["missing_module:build", "wukong_jax.models.wukong:make", "wukong_jax.models.wukong", ""]
)
def test_a_wrong_name_is_refused_with_its_key(name):
    for find in (load_factory, lambda key, name: find_companion(key, name, "resolve_options")):
        with pytest.raises(UserError, match=f"^{KEY} = {name!r}: .*; give 'module:function'"):
            find(KEY, name)


def test_a_mistake_in_a_factory_of_the_user_names_file_and_line(outside, monkeypatch):
    monkeypatch.chdir(outside)
    (outside / "outside_mistake.py").write_text("def build(options, shape):\n    return options['widths']\n")
    config = config_of("outside_mistake:build", {"width": 3})
    with pytest.raises(
        UserError, match=r"factory = 'outside_mistake:build': outside_mistake\.py, line 2: KeyError: 'wi"
    ):
        config.model.build("config.model", None)

"""Tests what a comparison reads of groups: every portfolio once, and the parts to untie."""

import pytest

from lattice.portfolios.comparison import GroupModel, read_groups, untie
from wukong_jax.config import build_run_config
from wukong_jax.config_files import load_config
from wukong_jax.errors import UserError


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["home/click"], "home/like is in 0 groups"),
        (["home/click", "home/like", "home/click"], "home/click is in 2 groups"),
        (["home/click", "home/like", "moon/click"], "moon/click is not of this data"),
    ],
)
def test_groups_must_hold_each_portfolio_once(names, message) -> None:
    described = [{"portfolios": [name], "dropped_columns": {}, "untied": []} for name in names]
    with pytest.raises(UserError, match=f"--groups: {message}; give groups that hold each portfolio of the data once"):
        read_groups(described, ["home/click", "home/like"])


def test_a_group_unties_the_parts_that_its_file_names():
    described = [
        {"portfolios": ["home/click"], "dropped_columns": {"user": "why"}, "untied": []},
        {"portfolios": ["home/like", "shop/like"], "dropped_columns": {}, "untied": ["fmb", "heads"]},
    ]
    groups = read_groups(described, ["home/click", "home/like", "shop/like"])
    assert groups[("home/click",)] == GroupModel(("user",), ())
    config = build_run_config(load_config("lattice/planted:related/tied"))
    assert untie(config, ("home/click",), ()) is config
    untied = untie(config, ("home/like", "shop/like"), groups[("home/like", "shop/like")].untied)
    assert (config.model.options["untied"], untied.model.options["untied"]) == ((), ("fmb", "heads"))
    with pytest.raises(UserError, match="'ffn' without sequences"):
        untie(config, ("home/like",), ("ffn",))
    with pytest.raises(UserError, match=r"mmoe:build does not; give a variant of lattice.network:build as --alone"):
        untie(build_run_config(load_config("lattice/planted:related/mmoe")), ("home/like",), ("heads",))

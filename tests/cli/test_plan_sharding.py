"""Tests plan_sharding: a plan between fully replicated and fully sharded, and refused input."""

import re

import pytest

from tests.cli.command import run_command
from tests.repository import ROOT
from wukong_jax.errors import UserError

FLAGS = (
    f"--config={ROOT / 'configs' / 'public' / 'criteo_10k.py'}",
    *("--schema=criteo", "--table_rows=1000", "--hosts=2", "--chips=4"),
    *("--config.training.batch_size=512", "--config.model.options.layers=3"),
)


@pytest.fixture
def plan(capsys):
    def run(*flags: str) -> tuple[list[str], dict[str, tuple[float, float]]]:
        run_command("plan_sharding", *FLAGS, *flags)
        lines = capsys.readouterr().out.splitlines()
        strategies = [line.split()[-1] for line in lines if re.match(r"layer \d", line)]
        costs = [re.match(r"(.+): ([\d.]+) MiB.*, ([\d.e-]+) ms", line) for line in lines]
        return strategies, {found[1]: (float(found[2]), float(found[3])) for found in costs if found}

    return run


def test_a_limit_between_the_extremes_mixes_strategies(plan):
    whole, costs = plan("--memory_gib=1")
    assert whole == ["replicated"] * 3
    assert costs["planned"] == costs["all replicated"]
    assert costs["all replicated"][1] < costs["all fsdp_chips"][1] < costs["all fsdp_all"][1]
    limit = 0.8 * costs["all replicated"][0]
    mixed, costs = plan(f"--memory_gib={limit / 1024}")
    assert len(set(mixed)) > 1
    assert costs["planned"][0] <= limit
    assert costs["all replicated"][1] < costs["planned"][1] < costs["all fsdp_all"][1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--memory_gib=0.000001",), "memory limit = .* give more memory or chips"),
        (("--memory_gib=1", "--config.training.batch_size=511"), "batch_size = 511: 8 chips do not divide it"),
        (("--memory_gib=1", "--tflops=0"), r"--tflops = 0\.0: must be above 0"),
        (("--memory_gib=1", "--config.mesh.hosts=4"), "mesh.hosts=4: --hosts and --chips say the mesh"),
    ],
)
def test_what_cannot_be_planned_is_refused(plan, flags, message):
    with pytest.raises(UserError, match=message):
        plan(*flags)

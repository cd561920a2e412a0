import sys

import pytest

from tests.repository import ROOT
from wukong_jax.errors import UserError


class FakeSweep:
    """A shard whose curves wait for two searches of others; they end while it looks."""

    def __init__(self, failed=()):
        self.failed, self.runs, self.looks = set(failed), 0, 0

    def run(self, shard, shards):
        assert (shard, shards) == (1, 3)
        self.runs += 1
        return len(self.searching(look=False))

    def searching(self, look=True):
        self.looks += look
        return ["DLRM", "Wukong"][: max(0, 2 - self.looks // 3)]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import scaling_curve

    monkeypatch.setattr(scaling_curve, "WAIT_SECONDS", 0.001)
    return scaling_curve


def test_a_shard_waits_for_others_searches_and_goes_on_with_each_that_ends(script, capsys):
    sweep = FakeSweep()
    script.train_shard(sweep, 1, 3, wait=True)
    assert sweep.searching(look=False) == []
    assert sweep.runs == 3
    assert (
        "waiting for other shards to end their searches of DLRM, Wukong; they must run, too" in capsys.readouterr().out
    )


def test_a_shard_that_is_not_to_wait_says_what_it_leaves(script, capsys):
    sweep = FakeSweep()
    script.train_shard(sweep, 1, 3, wait=False)
    assert sweep.runs == 1
    assert "left for a later start: the curves of DLRM, Wukong" in capsys.readouterr().out


def test_a_shard_with_failed_units_does_not_wait(script):
    sweep = FakeSweep(failed=["a unit"])
    script.train_shard(sweep, 1, 3, wait=True)
    assert sweep.runs == 1


@pytest.mark.parametrize(
    ("flag", "word"),
    [("--wait=yes", "--wait = 'yes': expected true or false"), ("--shard=4/4", "--shard = '4/4': expected i/n")],
)
def test_wrong_flags_are_named(script, monkeypatch, flag, word):
    monkeypatch.setattr(sys, "argv", ["scaling_curve.py", "--config=x", "--workdir=y", flag])
    with pytest.raises(UserError, match=word):
        script.main()

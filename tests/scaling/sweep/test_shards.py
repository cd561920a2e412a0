import pytest

from wukong_jax.errors import UserError
from wukong_jax.scaling.sweep import shards
from wukong_jax.scaling.sweep.shards import parse_shard, train_shard


class FakeSweep:
    """A shard whose curves wait for two searches of other shards, which end while it polls."""

    def __init__(self, failed=()):
        self.failed, self.runs, self.looks, self.due = set(failed), 0, 0, None

    def run(self, shard, shards):
        assert (shard, shards) == (1, 3)
        self.runs += 1
        return len(self.searching(look=False))

    def searching(self, look=True):
        self.looks += look
        return ["DLRM", "Wukong"][: max(0, 2 - self.looks // 3)]

    def next_unit(self, shard, shards):
        assert (shard, shards) == (1, 3)
        return self.due


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(shards, "WAIT_SECONDS", 0.001)


def test_a_shard_waits_for_others_searches_and_goes_on_with_each_that_ends():
    sweep = FakeSweep()
    lines = []
    train_shard(sweep, 1, 3, wait=True, say=lines.append)
    assert sweep.searching(look=False) == []
    assert sweep.runs == 3
    assert lines[0] == "waiting for other shards to end their searches of DLRM, Wukong; they must run, too"


def test_a_shard_that_gets_a_trial_to_train_waits_no_longer():
    sweep = FakeSweep()
    sweep.due = "a trial that follows from the results of others"
    train_shard(sweep, 1, 3, wait=True, say=lambda text: None)
    assert sweep.runs > 3  # not only when a search has ended


def test_a_shard_that_is_not_to_wait_says_what_it_leaves():
    sweep = FakeSweep()
    lines = []
    train_shard(sweep, 1, 3, wait=False, say=lines.append)
    assert sweep.runs == 1
    assert lines[0].startswith("left for a later start: the curves of DLRM, Wukong")


def test_a_shard_with_failed_units_does_not_wait():
    sweep = FakeSweep(failed=["a unit"])
    train_shard(sweep, 1, 3, wait=True, say=print)
    assert sweep.runs == 1


def test_a_shard_is_one_of_several():
    assert parse_shard("2/3") == (2, 3)
    for text in ("4/4", "1", "1/0", "-1/2", "a/b"):
        with pytest.raises(UserError, match=f"--shard = '{text}': expected i/n"):
            parse_shard(text)

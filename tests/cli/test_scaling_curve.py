"""Tests that scaling_curve refuses flags without effect before any training."""

import pytest

from tests.cli.command import run_command
from wukong_jax.errors import UserError


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--wait=yes"], "--wait = 'yes': 'yes' is not true or false"),
        (["--shard=4/4"], "--shard = '4/4': expected i/n"),
        (["--wait=false"], "--wait: is not read without --shard"),
        (["--only_report", "--shard=0/2"], "--shard: is not read with --only_report"),
        (["--only_report=true", "--shard=0/2", "--wait"], "is not read with --only_report"),
        (["--shard=0/2", "--processes=2", "--process=0"], "--processes: is not read with --shard"),
        (["--only_report", "--process=0"], "--process: is not read with --only_report"),
        (["--processes=2"], "--coordinator: is missing"),
        (["--processes=2", "--process=2"], r"--process = 2: must lie in \[0, 2\)"),
    ],
)
def test_wrong_flags_are_named(flags, message):
    with pytest.raises(UserError, match=message):
        run_command("scaling_curve", "--config=x", "--workdir=y", *flags)


SECOND_OF_THREE = {"JOB_ID": "1", "STEP_NODELIST": "a", "NTASKS": "3", "PROCID": "1", "LOCALID": "0"}  # of SLURM


@pytest.fixture
def slurm(monkeypatch):
    for name, value in SECOND_OF_THREE.items():
        monkeypatch.setenv(f"SLURM_{name}", value)


def take_shard(*flags):
    """Starts a sweep that tells which shard it would train, and trains nothing."""

    def train_shard(sweep, shard, shards, wait, say):
        raise UserError(f"shard {shard} of {shards}, waits: {wait}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wukong_jax.scaling.sweep.shards.train_shard", train_shard)
        patch.setattr("wukong_jax.cli.run_config.load_config_dict", lambda settings: {})
        patch.setattr("wukong_jax.scaling.sweep.config.build_sweep_config", lambda mapping: None)
        patch.setattr("wukong_jax.scaling.sweep.sweep.Sweep", lambda config, workdir, say: None)
        run_command("scaling_curve", "--config=x", "--workdir=y", *flags)


@pytest.mark.parametrize(("more", "waits"), [((), True), (("--wait=false",), False)])
def test_each_process_takes_the_shard_of_its_number(more, waits):
    with pytest.raises(UserError, match=f"shard 1 of 3, waits: {waits}"):
        take_shard("--processes=3", "--process=1", *more)


def test_a_process_of_a_cluster_takes_its_shard_unless_it_is_told_another(slurm):
    with pytest.raises(UserError, match="shard 1 of 3, waits: True"):
        take_shard()
    with pytest.raises(UserError, match="shard 0 of 2, waits: True"):
        take_shard("--shard=0/2")

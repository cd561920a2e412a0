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
    ],
)
def test_wrong_flags_are_named(flags, message):
    with pytest.raises(UserError, match=message):
        run_command("scaling_curve", "--config=x", "--workdir=y", *flags)

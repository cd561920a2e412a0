"""Tests that flags without effect in a given combination are refused with a reason."""

import pytest

from tests.cli.command import run_command
from wukong_jax.cli.parser import UsageError

PORTFOLIOS, TOWERS, BENCH = "partition_portfolios --data=d", "partition_towers --workdir=w", "bench_dmt"
FILTER = "filter_features --workdir=w --output=o --budget=2 --importance=i"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"{PORTFOLIOS}", "--output: none given"),
        (f"{PORTFOLIOS} --groups=g", "--rows: none given"),
        (f"{PORTFOLIOS} --groups=g --rows=r --user=u", "--user: is not read with --groups"),
        (f"{PORTFOLIOS} --output=o --rows=r", "--rows: is not read without --groups"),
        (f"{PORTFOLIOS} --output=o --batches=4", "--batches: is not read without --workdir"),
        (f"{PORTFOLIOS} --output=o --affinity=conflict=4", "conflict=4: is not read without --workdir"),
        (f"{PORTFOLIOS} --output=o --affinity=users=1,items=0", "users=1: is not read without --user"),
        (f"{TOWERS} --tolerance=0.2", "--tolerance = 0.2: towers balanced by count"),
        (f"{FILTER} --rows=9", "--rows: is not read with --importance"),
        (f"{FILTER} --split=test", "--split: is not read with --importance"),
        (f"{BENCH}", "--config: none given"),
        (f"{BENCH} --only_join --quality=q", "--only_join: needs --quality and --output"),
        (f"{BENCH} --only_join --quality=q --output=o --hosts=2", "--hosts: is not read with --only_join"),
        (f"{BENCH} --config=c --quality=q", "--quality = 'q': is not read without --output"),
        (f"{BENCH} --config=c --rates=100,unlimited", "--rates: must begin with unlimited"),
        (f"{BENCH} --config=c --rates=unlimited,0", "--rates: each must be above 0"),
        (f"{BENCH} --config=c --rounds=1 --steps=1", "at least 2 timed steps"),
        (f"{BENCH} --config=c --config.mesh.hosts=2", "unknown flag --config.mesh.hosts"),
        ("bench_growth --sweeps=bag,batch,bag", "--sweeps = 'bag,batch,bag': give one or more, none twice"),
        ("bench_loop --rounds=0 --memory_steps=0", "nothing is measured"),
        ("bench_loop --steps=300", "--steps = 300: at least 200 more than"),
        ("bench_loop --memory_steps=1001", "--memory_steps = 1001: a multiple of 10"),
        ("bench_train_step --peer --rows=100", "--rows = [100]: has no effect with --peer"),
        ("bench_train_step --peer --batch=512", "--batch = 512: has no effect with --peer"),
        ("bench_train_step --peer --optimizer=sgd", "--optimizer = 'sgd': has no effect with --peer"),
        ("bench_train_step --cases=dlrm", "--cases = ['dlrm']: has no effect without --peer"),
        ("bench_train_step --peer --cases=dcn", "--cases"),
    ],
)
def test_a_flag_that_would_not_be_read_is_refused(line, message):
    name, *flags = line.split()
    with pytest.raises(UsageError) as error:
        run_command(name, *flags)
    assert message in str(error.value)

"""Tests the PyTorch twins against our networks, where PyTorch and FBGEMM are installed."""

import dataclasses
import sys

import jax
import numpy as np
import pytest

from tests.cli.command import run_command
from wukong_jax.bench.peers.cases import CASES, build_case_run, draw_case_batches
from wukong_jax.errors import UserError

ROWS, BATCH, STEPS = 26 * 50, 256, 4
SMALL = {
    name: dataclasses.replace(case, batch=BATCH) for name, case in CASES.items() if name not in ("wukong_m", "wukong_l")
}


def need_torch():
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'wukong-jax[peers]'")
    pytest.importorskip("fbgemm_gpu", reason="FBGEMM is not installed: pip install 'wukong-jax[peers]'")


@pytest.mark.parametrize("name", SMALL)
def test_twins_have_our_parameters_and_take_our_steps(name):
    need_torch()
    from wukong_jax.bench.peers.comparison import build_their_step
    from wukong_jax.bench.peers.our_step import build_our_step
    from wukong_jax.bench.peers.torch_step import TorchStep

    case = SMALL[name]
    run = build_case_run(case, ROWS)
    batches = draw_case_batches(case, run, 2)
    ours, state = build_our_step(run, batches), run.init_state()
    theirs = build_their_step(run, batches, compiled=False)
    parameters = TorchStep(run, state, compiled=False).network.parameters()
    assert sum(own.numel() for own in parameters) == sum(leaf.size for leaf in jax.tree.leaves(state.params))
    losses = np.array([[ours(index), theirs(index)] for index in range(STEPS)])
    # float32 sums in another order, which now and then moves a value across the kink of a ReLU
    np.testing.assert_allclose(losses[:, 1], losses[:, 0], atol=1e-4)
    assert losses[-1, 0] < losses[0, 0] - 1e-3  # so that equal losses say that the weights move alike


def test_unequal_networks_are_not_timed():
    need_torch()
    from wukong_jax.bench.peers.comparison import CHECKED_STEPS, check_losses

    steps = {"ours": lambda index: 0.7, "eager": lambda index: 0.7 + 1e-5, "compiled": lambda index: 0.7}
    assert check_losses("dlrm", steps) == pytest.approx(1e-5)
    steps["compiled"] = lambda index: 0.7 if index < CHECKED_STEPS - 1 else float("nan")
    with pytest.raises(UserError, match=r"'dlrm': losses of 5 steps differ by nan between ours and compiled"):
        check_losses("dlrm", steps)


def test_ids_are_drawn_for_every_batch():
    case = SMALL["dlrm"]
    run = build_case_run(case, ROWS)
    first, second = draw_case_batches(case, run, 2)
    assert first.ids.shape == (BATCH, 26)
    assert (first.ids != second.ids).any()
    assert first.ids.min() >= 0
    assert first.ids.max() < 50


def test_a_missing_package_is_named_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "wukong_jax.bench.peers.comparison", raising=False)
    with pytest.raises(UserError, match=r"--peer: .*torch.*; run pip install 'wukong-jax\[peers\]'") as error:
        run_command("bench_train_step", "--peer")
    assert "\n" not in str(error.value)

"""Tests the training loop with a step that only counts: calls of listeners, and when the loop ends."""

import subprocess
import sys

import pytest

from wukong_jax.data.blocks.loader import Position
from wukong_jax.training.loop import ALL_DONE, Listener, Listeners, PlacedBatch, TrainLoop


class State:
    def __init__(self, step):
        self.step = step


def take_step(state, batch):
    return State(state.step + 1), {"loss_sum": batch}


def batches(count=100):
    for number in range(count):
        yield PlacedBatch(f"batch {number}", 1, Position(epoch=0, seed=0, rows_consumed=number + 1))


class Ears(Listener):
    def __init__(self, heard, name, stop_at=None, break_at=None):
        self.heard, self.name, self.stop_at, self.break_at = heard, name, stop_at, break_at

    def before_step(self, loop):
        self.heard.append((self.name, "before", loop.step))

    def after_step(self, loop, batch, metrics):
        assert metrics["loss_sum"] == batch.columns
        assert loop.state.step == loop.step
        self.heard.append((self.name, "after", loop.step))
        if loop.step == self.stop_at:
            loop.stopped_because = "enough"
        if loop.step == self.break_at:
            raise RuntimeError("broken")

    def after_last_step(self, loop):
        self.heard.append((self.name, "last", loop.step))

    def close(self):
        self.heard.append((self.name, "close"))


def test_listeners_hear_each_step_in_their_order():
    heard = []
    loop = TrainLoop(State(3), 5, Listeners([Ears(heard, "a"), Ears(heard, "b")]))
    assert not loop.is_over()
    loop.run(take_step, batches())
    one = [("before", 3), ("after", 4), ("before", 4), ("after", 5), ("last", 5)]
    assert heard == [(name, *event) for event in one for name in "ab"]
    assert (loop.step, loop.stopped_because) == (5, ALL_DONE)


def test_no_batch_is_drawn_after_the_last_step():
    drawn = batches()
    TrainLoop(State(0), 3, Listener()).run(take_step, drawn)
    assert next(drawn).columns == "batch 3"


def test_a_listener_ends_the_run_and_says_why():
    loop = TrainLoop(State(0), 9, Ears([], "a", stop_at=2))
    loop.run(take_step, batches())
    assert (loop.step, loop.stopped_because) == (2, "enough")


def test_the_last_step_is_told_after_an_error_too():
    heard = []
    loop = TrainLoop(State(0), 9, Listeners([Ears(heard, "a"), Ears(heard, "b", break_at=1), Ears(heard, "c")]))
    with pytest.raises(RuntimeError, match="broken"):
        loop.run(take_step, batches())
    assert heard[-3:] == [("a", "last", 1), ("b", "last", 1), ("c", "last", 1)]
    assert ("c", "after", 1) not in heard


def test_a_run_that_stopped_before_is_over():
    assert TrainLoop(State(2), 9, Listener(), stopped_because="enough").is_over()
    assert TrainLoop(State(9), 9, Listener()).is_over()


def test_all_are_closed_though_one_raises():
    class Broken(Listener):
        def close(self):
            raise RuntimeError("broken")

    heard = []
    with pytest.raises(RuntimeError, match="broken"):
        Listeners([Ears(heard, "a"), Broken(), Ears(heard, "b")]).close()
    assert heard == [("b", "close"), ("a", "close")]


def test_the_loop_draws_and_shows_nothing():
    names = "('matplotlib', 'tensorboardX', 'wukong_jax.reports', 'wukong_jax.runs.console')"
    code = f"import sys, wukong_jax.training.loop; print([name for name in {names} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_sweeps_draw_no_report():
    code = "import sys, wukong_jax.runs.train_run; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

"""Tests StopSignal: it records a signal while active; an unread signal takes effect on exit."""

import os
import signal

import pytest

from wukong_jax.runs.stop_signal import StopSignal

pytestmark = pytest.mark.usefixtures("interruptible")


def interrupt(leave):
    """Sends SIGINT to this process within a StopSignal, then leaves after reading the flag, or without reading it."""
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received == signal.SIGINT
        if leave:
            raise SystemExit(128 + stop.received)


def test_a_signal_that_came_after_the_last_step_takes_its_effect_on_leaving():
    with pytest.raises(KeyboardInterrupt):  # what SIGINT does by default
        interrupt(leave=False)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_loop_that_read_the_flag_leaves_by_its_own_exit_code():
    with pytest.raises(SystemExit, match="130"):
        interrupt(leave=True)


def test_without_a_signal_nothing_happens():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal() as stop:
        assert signal.getsignal(signal.SIGTERM) == stop._receive
    assert stop.received is None
    assert signal.getsignal(signal.SIGTERM) == before

"""Tests the lock of a folder on an object store: refusal, taking over from the dead, and losing it."""

import dataclasses
import time

import pytest

from wukong_jax.errors import BusyError, UserError
from wukong_jax.files import store_lock
from wukong_jax.files.object_store import ObjectFolder
from wukong_jax.files.store_lock import LOCK, hold_store_lock


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(store_lock, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(store_lock, "STALE_SECONDS", 1.0)
    monkeypatch.setattr(store_lock, "_POLL_SECONDS", 0.05)
    return ObjectFolder(f"file://{tmp_path}/run")


def act():
    """Has nothing to write."""


def leave_lock(folder, **changes):
    """Leaves the lock of a holder that counts it up no more."""
    with hold_store_lock(folder, "busy", act) as lock:
        holder = dataclasses.replace(lock._holder, **changes)
    folder.write(LOCK, holder.to_bytes())
    return holder


def test_a_second_holder_is_refused_and_the_lock_is_gone_at_the_end(folder):
    with hold_store_lock(folder, "busy: wait", act):
        with pytest.raises(BusyError, match="busy: wait"), hold_store_lock(folder, "busy: wait", act):
            pytest.fail("two hold the lock")
        assert folder.read(LOCK) is not None
    assert folder.list() == {}


def test_the_lock_of_a_holder_on_another_host_is_taken_over_when_it_stands_still(folder):
    leave_lock(folder, host="elsewhere", token="other")
    started = time.monotonic()
    with hold_store_lock(folder, "busy", act):
        assert time.monotonic() - started > 0.9
    assert folder.list() == {}


def test_the_lock_of_a_process_of_this_host_that_has_ended_is_taken_over_at_once(folder, monkeypatch):
    monkeypatch.setattr(store_lock, "STALE_SECONDS", 600.0)
    leave_lock(folder, process=2**22 + 1, token="other")  # above the system's largest process number
    with hold_store_lock(folder, "busy", act):
        pass


def test_a_holder_whose_lock_was_taken_over_is_told_and_leaves_it(folder):
    with hold_store_lock(folder, "busy", act) as lock:
        lock.check()
        other = dataclasses.replace(lock._holder, host="elsewhere", token="other")
        folder.write(LOCK, other.to_bytes())
        with pytest.raises(BusyError, match=r"now held by process .* on elsewhere"):
            await_failure(lock)
    assert folder.read(LOCK) == other.to_bytes()


def test_a_failure_of_the_work_is_raised_when_it_lasts(folder, monkeypatch):
    def fail():
        raise UserError("no network")

    monkeypatch.setattr(store_lock, "STALE_SECONDS", -1.0)
    with hold_store_lock(folder, "busy", fail) as lock, pytest.raises(UserError, match="no network"):
        await_failure(lock)


def await_failure(lock):
    end = time.monotonic() + 20.0
    while time.monotonic() < end:
        lock.check()
        time.sleep(0.02)

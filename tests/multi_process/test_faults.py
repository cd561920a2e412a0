"""Tests what ends a team: signals, processes that are lost or stuck, full disks, and mistakes that only one makes."""

import re
import signal
import time

import pytest

from tests.multi_process.faults import MADE
from tests.multi_process.processes import LIMIT, STALL_SECONDS, launch, start_team, wait_for, wait_for_end

LONG = ("--config.training.batch_size=64", "--config.training.epochs=100", "--config.training.log_every_steps=5")
BOTH = range(2)


def wait_for_fault(faulty, others):
    """Waits for the fault, and then for the ends of the others, which must come in time; returns their one line."""
    stop = time.monotonic() + LIMIT
    while MADE not in faulty.err:
        assert time.monotonic() < stop, faulty.err
        time.sleep(0.02)
    made = float(re.search(f"{MADE}([0-9.]+)", faulty.err)[1])
    codes = wait_for_end(others, STALL_SECONDS + 5 - (time.time() - made))
    assert codes == [1] * len(others), others[0].err
    (line,) = others[0].errors
    return line


def test_sigterm_to_one_process_saves_one_step_and_ends_all(tmp_path):
    with start_team(tmp_path / "run", BOTH, 2, *LONG) as team:
        wait_for("step 10/", team[0])
        team[1].process.send_signal(signal.SIGTERM)
        assert wait_for_end(team, 60) == [143, 143], team[0].err
    saved = {int(step.name) for step in (tmp_path / "run" / "checkpoints" / "latest").iterdir() if step.name.isdigit()}
    said = [line for line in team[0].err.splitlines() if "SIGTERM: saved step" in line]
    assert said == [f"SIGTERM: saved step {max(saved):,}; run the same command again to resume"]
    assert not team[0].errors + team[1].errors


@pytest.mark.parametrize("stage", ["compiling the train step", "evaluating batch 2"])
def test_a_signal_in_a_long_stage_says_so_and_then_saves_one_step_in_all(stage, tmp_path):
    short = ("--config.training.evaluate_every_steps=2", "--config.training.steps=1000", *LONG[:2])
    with start_team(tmp_path / "run", BOTH, 2, *short, fault=f"slow:1:{stage}") as team:
        wait_for(MADE, team[1])
        team[1].process.send_signal(signal.SIGTERM)
        assert wait_for_end(team, 60) == [143, 143], team[0].err + team[1].err
    (said,) = [line for line in team[1].err.splitlines() if line.startswith("SIGTERM: ")]
    assert "received by process 1 of 2 on " in said
    assert f"in {stage}; when that is done, all processes save the same step and end" in said
    (saved,) = [line for line in team[0].err.splitlines() if line.startswith("SIGTERM: ")]
    steps = {int(step.name) for step in (tmp_path / "run" / "checkpoints" / "latest").iterdir() if step.name.isdigit()}
    assert saved == f"SIGTERM: saved step {max(steps)}; run the same command again to resume"
    assert max(steps) < 12


def test_a_block_that_only_one_process_cannot_read_ends_all(tmp_path):
    with start_team(tmp_path / "run", BOTH, 2, fault="damaged blocks:1:restoring") as team:
        line = wait_for_fault(team[1], team)
    assert line.startswith("error: process 1 of 2 on ")
    assert "array_record, block " in line
    assert "the file is damaged or foreign: prepare the data again" in line


@pytest.mark.parametrize(("process", "number", "code"), [(1, signal.SIGINT, 130), (0, signal.SIGTERM, 143)])
def test_a_signal_before_the_first_step_ends_all(process, number, code, tmp_path):
    with start_team(tmp_path / "run", BOTH, 2, fault="stuck:0:preparing") as team:  # as preparing for long is
        wait_for(MADE, team[0])
        team[process].process.send_signal(number)
        assert wait_for_end(team, 10) == [code, code], team[0].err
    (line,) = team[1 - process].errors
    assert line.startswith(f"error: process {process} of 2 on ")
    assert "interrupted" in line


def test_a_killed_process_0_is_named_and_the_others_end(tmp_path):
    with start_team(tmp_path / "run", BOTH, 2, fault="kill:0:training step 5") as team:
        line = wait_for_fault(team[0], team[1:])
    assert line.startswith("error: process 0 of 2 on ")
    assert f"has not answered for {STALL_SECONDS:g} s" in line
    assert len(team[1].err.splitlines()) < 10  # and no dump of JAX's


def test_a_stuck_process_is_named_and_ends_itself_and_the_others(tmp_path):
    with start_team(tmp_path / "run", BOTH, 2, fault="stuck:1:evaluating batch 2") as team:
        line = wait_for_fault(team[1], team)
    assert line.startswith("error: process 1 of 2 on ")
    assert f"has not moved for {STALL_SECONDS:g} s (config.training.stall_limit): it is alive, in evaluating" in line
    (own,) = team[1].errors
    assert "(in fail, " in own


def test_a_full_disk_of_one_process_ends_all(tmp_path):
    with start_team(tmp_path / "run", BOTH, 2, fault="full disk:1:saving") as team:
        line = wait_for_fault(team[1], team)
    assert line.startswith("error: process 1 of 2 on ")
    assert "cannot write (file too large)" in line


def test_a_mistake_of_process_0_alone_ends_all_with_its_line(tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "metrics.jsonl").mkdir()  # which only process 0 writes
    with start_team(workdir, BOTH, 2, *LONG) as team:
        assert wait_for_end(team, LIMIT) == [1, 1], team[0].err
    (own,), (told,) = team[0].errors, team[1].errors
    assert "metrics.jsonl" in own
    assert told.startswith("error: process 0 of 2 on ")
    assert own.removeprefix("error: ") in told


def test_processes_that_do_not_meet_end(tmp_path):
    short = "--config.training.stall_limit=3"
    with (
        start_team(tmp_path / "a", range(1), 2, short) as first,
        start_team(tmp_path / "b", range(1, 2), 2, short) as second,
    ):
        assert wait_for_end(first + second, 30) == [1, 1]
    (line,) = first[0].errors
    assert "not all 2 processes have come there within 3 s" in line
    (line,) = second[0].errors
    assert "process 1 of 2 on " in line
    assert "does not reach process 0 there within 3 s" in line


def test_the_launcher_ends_with_the_code_of_the_first_and_prefixes_lines():
    done = launch(2, 1, "train", "--config=nowhere.py", "--workdir=w")
    assert done.returncode == 1
    assert "[0] error: " in done.stderr
    assert "nowhere.py" in done.stderr

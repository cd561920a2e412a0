"""Tests what ends a team: signals, a killed process, and mistakes that only one process makes."""

import signal
import time

from tests.multi_process.processes import (
    STALL_SECONDS,
    end,
    launch,
    read_errors,
    start_team,
    wait_for_file,
    wait_for_lines,
)

LONG = ("--config.training.batch_size=64", "--config.training.epochs=100", "--config.training.log_every_steps=5")


def test_sigterm_to_one_process_saves_one_step_and_ends_all(tmp_path):
    with start_team(tmp_path / "run", 2, *LONG) as team:
        wait_for_lines(tmp_path / "run", 2, team)
        team[1].send_signal(signal.SIGTERM)
        ends = end(team, 30)
    assert [code for code, _ in ends] == [143, 143], ends
    saved = {int(step.name) for step in (tmp_path / "run" / "checkpoints" / "latest").iterdir() if step.name.isdigit()}
    said = [line for line in ends[0][1].splitlines() if "SIGTERM: saved step" in line]
    assert said == [f"SIGTERM: saved step {max(saved):,}; run the same command again to resume"]
    assert not read_errors(ends[0][1] + ends[1][1])


def test_sigterm_before_the_first_step_ends_all(tmp_path):
    """JAX's runtime has a handler of its own, which would keep the signal to itself."""
    with start_team(tmp_path / "run", 2, "--config.data.options.train_rows=3000000") as team:
        wait_for_file(tmp_path / "run" / ".lock", team)  # rows are prepared now
        team[0].send_signal(signal.SIGTERM)
        ends = end(team, 30)
    assert [code for code, _ in ends] == [143, 143], ends
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_killed_process_is_named_and_the_others_end(tmp_path):
    with start_team(tmp_path / "run", 2, *LONG) as team:
        wait_for_lines(tmp_path / "run", 2, team)
        team[1].kill()
        began = time.monotonic()
        ends = end(team, 2 * STALL_SECONDS + 10)
        assert time.monotonic() - began < STALL_SECONDS + 5
    assert [code for code, _ in ends] == [1, -signal.SIGKILL], ends
    (line,) = read_errors(ends[0][1])
    assert line.startswith("error: process 1 of 2 on ")
    assert f"has not answered for {STALL_SECONDS:g} s" in line


def test_without_process_0_the_others_end(tmp_path):
    """JAX itself ends them, with lines of its own: its runtime's server was in process 0."""
    with start_team(tmp_path / "run", 2, *LONG) as team:
        wait_for_lines(tmp_path / "run", 2, team)
        team[0].kill()
        ends = end(team, STALL_SECONDS + 5)
    assert ends[0][0] == -signal.SIGKILL
    assert ends[1][0] != 0


def test_a_mistake_of_process_0_alone_ends_all_with_its_line(tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "metrics.jsonl").mkdir()  # which only process 0 writes
    with start_team(workdir, 2, *LONG) as team:
        ends = end(team, 60)
    assert [code for code, _ in ends] == [1, 1], ends
    (own,), (told,) = read_errors(ends[0][1]), read_errors(ends[1][1])
    assert "metrics.jsonl" in own
    assert told.startswith("error: process 0 of 2 on ")
    assert own.removeprefix("error: ") in told


def test_the_launcher_ends_with_the_code_of_the_first_and_prefixes_lines():
    done = launch(2, 1, "train", "--config=nowhere.py", "--workdir=w")
    assert done.returncode == 1
    assert "[0] error: " in done.stderr
    assert "nowhere.py" in done.stderr

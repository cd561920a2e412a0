"""Tests when a team is judged to have lost a process, or to be stuck, and whom the verdict names."""

import pytest

from wukong_jax.sharding.team_verdict import Judge, Report, name_lost_lead

LIMIT = 10.0


def run(reports, seconds, step=1.0):
    """Returns the first verdict, and its time; `reports(time)` gives those of all processes."""
    judge = Judge(2, LIMIT, 0.0)
    now = 0.0
    while now < seconds:
        now += step
        verdict = judge.judge(reports(now), now)
        if verdict:
            return verdict, now
    return "", now


def report(now, marks, *, beat=None, work=0, stage="training step 7", waits=False):
    return Report(int(now if beat is None else beat), marks, work, stage, waits, "host-a")


def test_steps_go_on_for_ever():
    assert run(lambda now: {i: report(now, int(now) // 5) for i in range(2)}, 100)[0] == ""


def test_a_process_without_a_beat_is_lost():
    def reports(now):
        return {0: report(now, int(now)), 1: report(now, 7, beat=min(now, 20))}

    verdict, now = run(reports, 100)
    assert verdict.startswith("process 1 of 2 on host-a has not answered for 10 s, last in training step 7 (killed")
    assert now == 31.0


def test_a_process_that_never_reported_is_lost():
    verdict, now = run(lambda now: {0: report(now, int(now))}, 100)
    assert verdict.startswith("process 1 of 2 has not answered for 10 s (killed")
    assert now == 11.0


@pytest.mark.parametrize("waits", [False, True])
def test_the_process_that_the_others_wait_for_is_named(waits):
    def reports(now):
        marks = min(int(now), 20)
        return {0: report(now, marks + 1, stage="training step 8", waits=waits), 1: report(now, marks)}

    verdict, now = run(reports, 100)
    assert verdict.startswith("process 1 of 2 on host-a has not moved for 10 s (config.training.stall_limit)")
    assert "it is alive, in training step 7, and the others wait for it in training step 8" in verdict
    assert now == 31.0


def test_a_process_that_waits_is_not_named_even_if_it_has_begun_less():
    def reports(now):
        return {0: report(now, 3, stage="preparing the rows"), 1: report(now, 2, stage="start", waits=True)}

    assert run(reports, 100)[0].startswith("process 0 of 2 ")


def test_if_all_are_at_one_place_none_is_named():
    verdict, _ = run(lambda now: {i: report(now, 4) for i in range(2)}, 100)
    assert verdict.startswith("no process has moved for 10 s")
    assert "all are in training step 7; the network or a device hangs" in verdict


def test_work_in_a_stage_without_steps_counts_as_going_on():
    def reports(now):
        return {0: report(now, 3, work=int(now) // 8), 1: report(now, 3, waits=True)}

    assert run(reports, 100)[0] == ""


def test_a_judge_that_was_stopped_takes_nobody_for_lost():
    judge = Judge(2, LIMIT, 0.0)
    both = {i: report(1, 1) for i in range(2)}
    assert judge.judge(both, 1.0) == ""
    assert judge.judge(both, 100.0) == ""
    assert judge.judge({i: report(101, 2) for i in range(2)}, 101.0) == ""


def test_the_lead_is_named_by_its_host():
    assert name_lost_lead(4, "host-b", 10).startswith("process 0 of 4 on host-b has not answered for 10 s")

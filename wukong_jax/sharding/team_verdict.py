"""Judges from the reports of all processes whether one of them is lost, or stuck while the others wait for it."""

from collections.abc import Mapping
from typing import NamedTuple

GO_ON = "run the same command to go on"


class Report(NamedTuple):
    """What a process last said of itself."""

    beat: int  # grows while its watch runs
    marks: int  # stages and steps that it has begun; all processes begin the same ones in the same order
    work: int  # grows while it is busy in a stage without steps
    stage: str
    waits: bool  # whether it waits for other processes
    host: str


class Judge:
    """Keeps when each process was last seen alive, and when it last moved."""

    def __init__(self, count: int, limit: float, now: float) -> None:
        """Starts with all processes alive.

        Args:
          count: number of processes.
          limit: seconds without a sign after which a process is lost, or all are stuck.
          now: the time in seconds.
        """
        self._count, self._limit = count, limit
        self._seen: dict[int, Report] = {}
        self._alive = dict.fromkeys(range(count), now)
        self._moved = now
        self._asked = now

    def judge(self, reports: Mapping[int, Report], now: float) -> str:
        """Returns why the training must end, in one line without its end; "" if it need not.

        Args:
          reports: the newest report of each process that has made one.
          now: the time in seconds.
        """
        if now - self._asked > self._limit / 2:  # the judge itself was stopped or starved, and has seen nothing
            self._alive = dict.fromkeys(range(self._count), now)
            self._moved = now
        self._asked = now
        for index, report in reports.items():
            before = self._seen.get(index)
            if before is None or report.beat != before.beat:
                self._alive[index] = now
            if before is None or (report.marks, report.work) != (before.marks, before.work):
                self._moved = now
        self._seen.update(reports)
        lost = min(self._alive, key=lambda index: self._alive[index])
        if now - self._alive[lost] > self._limit:
            return self._describe_lost(lost)
        return self._describe_stuck() if now - self._moved > self._limit else ""

    def _describe_lost(self, index: int) -> str:
        report = self._seen.get(index)
        where = f" on {report.host}" if report else ""
        last = f", last in {report.stage}" if report else ""
        return (
            f"process {index} of {self._count}{where} has not answered for {self._limit:g} s{last} "
            f"(killed, stopped or cut off); {GO_ON}"
        )

    def _describe_stuck(self) -> str:
        limit = f"for {self._limit:g} s (config.training.stall_limit)"
        by_marks = sorted(self._seen.items(), key=lambda item: (item[1].waits, item[1].marks))
        (slowest, report), (_, other) = by_marks[0], by_marks[-1]
        if (report.waits, report.marks) == (other.waits, other.marks):
            return f"no process has moved {limit}, all are in {report.stage}; the network or a device hangs; {GO_ON}"
        return (
            f"process {slowest} of {self._count} on {report.host} has not moved {limit}: it is alive, in "
            f"{report.stage}, and the others wait for it in {other.stage}; {GO_ON}"
        )


def name_lost_lead(count: int, host: str, seconds: float) -> str:
    """Returns the line of a process that does not hear of process 0 any more."""
    return f"process 0 of {count} on {host} has not answered for {seconds:g} s (killed, stopped or cut off); {GO_ON}"

"""Scores the rows of many requests in common batches, on one thread, with a scorer that can be exchanged.

Requests wait in a queue. The thread takes what waits, up to the largest batch, and scores it at once: under load
batches grow by themselves, and without load a row waits for nothing.
"""

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from wukong_jax.errors import UserError
from wukong_jax.messages import describe_error
from wukong_jax.serving.scorer import Scorer

Answer = np.ndarray | str  # probabilities [O] float64, or the message of a row's error


@dataclasses.dataclass(frozen=True)
class Answers:
    """The answers to the rows of a request, all from one artefact."""

    rows: list[Answer]
    scorer: Scorer


class BusyServerError(Exception):
    """Too many rows wait already."""


class ClosedServerError(Exception):
    """The server ends and takes no more rows."""


@dataclasses.dataclass
class Counts:
    """What has happened so far; read for `/metrics`."""

    requests: int = 0
    rows: int = 0
    bad_rows: int = 0
    batches: int = 0
    refused_requests: int = 0
    reloads: int = 0
    failed_reloads: int = 0
    scoring_seconds: float = 0.0


class Batcher:
    """Scores requests in batches; see the module's docstring."""

    def __init__(self, scorer: Scorer, largest_batch: int, most_waiting: int) -> None:
        """Starts the thread.

        Args:
          scorer: the artefact to start with.
          largest_batch: rows scored at once, unless a single request has more.
          most_waiting: rows that may wait; more are refused.
        """
        self.counts = Counts()
        self._scorer, self._largest, self._most = scorer, largest_batch, most_waiting
        self._waiting: deque[tuple[Sequence[Any], Future[Answers]]] = deque()
        self._waiting_rows = 0
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="scoring", daemon=True)
        self._thread.start()

    @property
    def scorer(self) -> Scorer:
        """The artefact that scores the next batch."""
        return self._scorer

    @property
    def waiting_rows(self) -> int:
        """Rows that wait."""
        return self._waiting_rows

    def submit(self, rows: Sequence[Any]) -> "Future[Answers]":
        """Queues the rows of a request.

        Args:
          rows: mappings from column to value.

        Returns:
          The future answers.

        Raises:
          BusyServerError: too many rows wait.
          ClosedServerError: the server ends.
        """
        answer: Future[Answers] = Future()
        with self._changed:
            if self._closed:
                raise ClosedServerError
            if self._waiting_rows + len(rows) > self._most and self._waiting:
                self.counts.refused_requests += 1
                raise BusyServerError
            self.counts.requests += 1
            self._waiting.append((rows, answer))
            self._waiting_rows += len(rows)
            self._changed.notify()
        return answer

    def exchange(self, scorer: Scorer) -> None:
        """Scores the next batches with another artefact; the batch that is being scored ends with the old one."""
        self._scorer = scorer
        self.counts.reloads += 1

    def close(self) -> None:
        """Takes no more rows, answers those that wait, and ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _take(self) -> list[tuple[Sequence[Any], "Future[Answers]"]]:
        """Waits for rows and takes a batch of whole requests; an empty one at the end."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            taken: list[tuple[Sequence[Any], Future[Answers]]] = []
            count = 0
            while self._waiting and (not taken or count + len(self._waiting[0][0]) <= self._largest):
                taken.append(self._waiting.popleft())
                count += len(taken[-1][0])
            self._waiting_rows -= count
            return taken

    def _work(self) -> None:
        while taken := self._take():
            started = time.perf_counter()
            scorer = self._scorer
            batch = [(rows, future) for rows, future in taken if future.set_running_or_notify_cancel()]
            for (rows, future), answers in zip(batch, _score_requests(scorer, [r for r, _ in batch]), strict=True):
                if isinstance(answers, Exception):
                    future.set_exception(answers)
                    continue
                self.counts.rows += len(rows)
                self.counts.bad_rows += sum(isinstance(answer, str) for answer in answers)
                future.set_result(Answers(answers, scorer))
            self.counts.batches += 1
            self.counts.scoring_seconds += time.perf_counter() - started


def _score_requests(scorer: Scorer, requests: Sequence[Sequence[Any]]) -> list[list[Answer] | Exception]:
    """Scores several requests at once; if that fails as a whole, each by itself, so that one cannot harm others."""
    score: Callable[[Sequence[Any]], list[Answer]] = scorer.score_each
    try:
        answers = iter(score([row for rows in requests for row in rows]))
        return [_number_lines([next(answers) for _ in rows]) for rows in requests]
    except Exception as error:
        if len(requests) > 1:
            return [answer for rows in requests for answer in _score_requests(scorer, [rows])]
        return [error if isinstance(error, UserError) else UserError(f"cannot score ({describe_error(error)})")]


def _number_lines(answers: list[Answer]) -> list[Answer]:
    """Gives messages the row's line in its own request instead of in the batch."""
    numbered: list[Answer] = []
    for line, answer in enumerate(answers, 1):
        if isinstance(answer, str) and answer.startswith("rows, line "):
            answer = f"rows, line {line}, {answer.split(', ', 2)[2]}"
        numbered.append(answer)
    return numbered

"""Tests that requests are scored in common batches, and that nothing is lost under load, reload and close."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from wukong_jax.errors import UserError
from wukong_jax.serving.batching import Batcher, BusyServerError, ClosedServerError


class FakeScorer:
    """Answers a row with its number, or a message for a negative one; can be held up."""

    def __init__(self, name="first"):
        self.name, self.batches, self.free = name, [], threading.Event()
        self.free.set()

    def score_each(self, rows):
        self.free.wait()
        self.batches.append(len(rows))
        if "poison" in rows:
            raise ValueError("poisoned")
        return [f"rows, line {i + 1}, bad" if row < 0 else np.array([row, 0.5]) for i, row in enumerate(rows)]


@pytest.fixture
def scorer():
    return FakeScorer()


def hold(scorer, batcher):
    """Makes the thread wait inside a batch of one row; returns its future."""
    scorer.free.clear()
    first = batcher.submit([0])
    while batcher.waiting_rows:
        time.sleep(0.001)
    return first


def test_waiting_requests_share_a_batch_and_keep_their_rows(scorer):
    batcher = Batcher(scorer, largest_batch=5, most_waiting=100)
    hold(scorer, batcher)
    requests = [[1, -2], [3], [], [4, 5, -6], [7] * 9]
    futures = [batcher.submit(rows) for rows in requests]
    scorer.free.set()
    answers = [future.result(10).rows for future in futures]
    batcher.close()
    assert scorer.batches == [1, 3, 3, 9]
    assert answers[0][1] == "rows, line 2, bad"
    assert answers[3][2] == "rows, line 3, bad"
    assert [len(rows) for rows in answers] == [2, 1, 0, 3, 9]
    assert answers[3][1][0] == 5
    counts = batcher.counts
    assert (counts.requests, counts.rows, counts.bad_rows, counts.batches) == (6, 16, 2, 4)


def test_one_request_that_cannot_be_scored_harms_no_other(scorer):
    batcher = Batcher(scorer, 10, 100)
    hold(scorer, batcher)
    good, bad, other = batcher.submit([1]), batcher.submit(["poison"]), batcher.submit([2])
    scorer.free.set()
    assert good.result(10).rows[0][0] == 1
    assert other.result(10).rows[0][0] == 2
    with pytest.raises(UserError, match=r"^cannot score \(ValueError: poisoned\)$"):
        bad.result(10)
    batcher.close()


def test_more_rows_than_may_wait_are_refused(scorer):
    batcher = Batcher(scorer, 10, 3)
    first = hold(scorer, batcher)
    batcher.submit([1, 2, 3, 4])  # one large request may wait alone
    with pytest.raises(BusyServerError):
        batcher.submit([5])
    assert batcher.counts.refused_requests == 1
    scorer.free.set()
    first.result(10)
    batcher.close()


def test_a_request_that_its_client_gave_up_is_left_out(scorer):
    batcher = Batcher(scorer, 10, 100)
    hold(scorer, batcher)
    given_up, kept = batcher.submit([1, 2, 3]), batcher.submit([4])
    assert given_up.cancel()
    scorer.free.set()
    assert kept.result(10).rows[0][0] == 4
    batcher.close()
    assert sum(scorer.batches) == 2


def test_closing_answers_what_waits(scorer):
    batcher = Batcher(scorer, 2, 100)
    hold(scorer, batcher)
    futures = [batcher.submit([number]) for number in range(9)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    scorer.free.set()
    closing.join(10)
    assert [future.result(0).rows[0][0] for future in futures] == list(range(9))
    with pytest.raises(ClosedServerError):
        batcher.submit([1])


def test_nothing_is_lost_while_scorers_are_exchanged(scorer):
    batcher = Batcher(scorer, 16, 100_000)
    scorers = [FakeScorer(str(number)) for number in range(50)]

    def ask(number):
        answers = batcher.submit([number, number + 1]).result(30)
        return [row[0] for row in answers.rows] == [number, number + 1]

    with ThreadPoolExecutor(8) as clients:
        asked = [clients.submit(ask, number) for number in range(2000)]
        for other in scorers:
            batcher.exchange(other)
            time.sleep(0.001)
        assert all(future.result() for future in asked)
    batcher.close()
    assert batcher.counts.rows == 4000
    assert batcher.counts.reloads == 50
    assert sum(sum(one.batches) for one in [scorer, *scorers]) == 4000

"""Tests the server over real connections: answers, limits, reloads, and its end."""

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from tests.repository import ROOT
from tests.serving.test_scorer import predict_all, rows_of
from wukong_jax.errors import UserError
from wukong_jax.serving.artefact import MANIFEST

uvicorn = pytest.importorskip("uvicorn", reason="needs the extra `serve`")
starlette = pytest.importorskip("starlette", reason="needs the extra `serve`")

from wukong_jax.serving.server import ArtefactServer, ServerLimits  # noqa: E402

LIMITS = ServerLimits(request_bytes=20_000, request_rows=8, waiting_rows=10_000, reload_seconds=0.1)


class Running:
    """A server on a thread, on a free port of this machine."""

    def __init__(self, folder, limits=LIMITS):
        self.said = []
        self.server = ArtefactServer(folder, limits, self.said.append, buckets=(1, 16))
        self.uvicorn = uvicorn.Server(uvicorn.Config(self.server.build_app(), log_level="error", lifespan="on"))
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.thread = threading.Thread(target=self.uvicorn.run, kwargs={"sockets": [self.socket]}, daemon=True)

    def __enter__(self):
        self.thread.start()
        while not self.uvicorn.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *error):
        self.uvicorn.should_exit = True
        self.thread.join(20)
        self.socket.close()

    def ask(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body)  # an iterator is sent in chunks
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def score(self, rows):
        status, text = self.ask("POST", "/score", json.dumps({"rows": rows}))
        return status, json.loads(text)


@pytest.fixture(scope="module")
def running(shop, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server") / "served"
    shutil.copytree(shop / "served", folder)
    with Running(folder) as server:
        yield server


def test_rows_are_scored_and_bad_ones_told_one_by_one(running, shop):
    rows = rows_of(shop)[:4]
    rows[1] = rows[1] | {"price": "much"}
    rows[2] = {"price": 1}
    status, answer = running.score(rows)
    assert status == 200
    assert answer["objectives"] == ["click", "buy"]
    np.testing.assert_allclose([answer["scores"][0], answer["scores"][3]], predict_all(shop)[[0, 3]], rtol=1e-6)
    assert answer["scores"][1:3] == [None, None]
    assert [error["row"] for error in answer["errors"]] == [1, 2]
    assert answer["errors"][0]["message"] == "rows, line 2, column 'price' = 'much': expected a number; fix the row"
    assert answer["artefact"]["name"] == "shop"


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "the body is not JSON"),
        (b"{", 400, "the body is not JSON"),
        (b"\xff\xfe{}", 400, "the body is not JSON"),
        (b"[" * 15_000, 400, "the body is not JSON"),
        (b'{"rows": [{"price": NaN}]}', 400, "NaN is no JSON number"),
        (b'{"rows": [' + b"9" * 9000 + b"]}", 400, "the body is not JSON"),
        (b"[]", 400, "the body: expected"),
        (b'{"rows": 3}', 400, "the body: expected"),
        (b'{"rows": [], "pickle": 1}', 400, "the body: expected"),
        (json.dumps({"rows": [{}] * 9}).encode(), 413, "9 rows; send at most 8 at once"),
        (b" " * 20_001, 413, "the body has more than 20000 bytes"),
    ],
)
def test_hostile_bodies_are_one_line(running, body, status, message):
    found, text = running.ask("POST", "/score", body)
    assert found == status
    assert message in json.loads(text)["error"]
    assert "\n" not in json.loads(text)["error"]


def test_a_body_without_a_length_is_limited_too(running):
    parts = iter([b" " * 9000] * 5)
    status, text = running.ask("POST", "/score", parts)
    assert status == 413
    assert "more than 20000 bytes" in text


def test_odd_rows_and_methods(running):
    status, answer = running.score([3, None, [], {"price": {}}, {"a": 10**400}, {"price": "\ud800"}])
    assert status == 200
    assert answer["scores"] == [None] * 6
    assert len(answer["errors"]) == 6
    assert running.score([])[1]["scores"] == []
    assert running.ask("GET", "/score")[0] == 405
    assert running.ask("GET", "/manifest.json")[0] == 404


def test_health_and_metrics(running):
    status, text = running.ask("GET", "/health")
    assert status == 200
    assert json.loads(text)["status"] == "ok"
    status, text = running.ask("GET", "/metrics")
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert status == 200
    assert int(lines["wukong_jax_requests_total"]) >= 1
    assert lines["wukong_jax_request_seconds_count"] == lines['wukong_jax_request_seconds_bucket{le="+Inf"}']


def test_a_new_artefact_takes_over_without_a_lost_request(shop, tmp_path):
    folder, aside = tmp_path / "served", tmp_path / "aside"
    shutil.copytree(shop / "served", folder)
    rows, lost, steps = rows_of(shop)[:3], [], set()
    expected = predict_all(shop)[:3]
    with Running(folder) as running:
        done = threading.Event()

        def ask():
            while not done.is_set():
                status, answer = running.score(rows)
                if status != 200 or not np.allclose(answer["scores"], expected, rtol=1e-6):
                    lost.append((status, answer))
                steps.add(answer["artefact"]["step"])

        clients = [threading.Thread(target=ask) for _ in range(3)]
        for client in clients:
            client.start()
        for number in (1001, 1002):
            shutil.copytree(shop / "served", aside)
            mapping = json.loads((aside / MANIFEST).read_text(encoding="utf-8"))
            (aside / MANIFEST).write_text(json.dumps(mapping | {"step": number}), encoding="utf-8")
            os.rename(folder, tmp_path / f"old{number}")
            os.rename(aside, folder)
            wait_until(lambda number=number: number in steps)
        # An artefact that cannot be read changes nothing.
        (folder / MANIFEST).write_text("{}", encoding="utf-8")
        wait_until(lambda: running.server._batcher.counts.failed_reloads == 1)
        steps.clear()
        wait_until(lambda: 1002 in steps)
        done.set()
        for client in clients:
            client.join(30)
    assert not lost
    assert [text for text in running.said if "step 1001" in text or "step 1002" in text]
    assert "this version reads format 1" in running.said[-1]


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_an_artefact_that_requests_cannot_feed_is_refused(shop, monkeypatch):
    from wukong_jax.serving import server as module

    joined = SimpleNamespace(manifest=SimpleNamespace(extras={"teacher_embedding": 4}))
    monkeypatch.setattr(module, "load_scorer", lambda folder, buckets: joined)
    with pytest.raises(UserError, match=r"needs joined columns \(teacher_embedding\)"):
        ArtefactServer(shop / "served", LIMITS)


def test_the_command_ends_in_order_on_a_signal(shop, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, str(ROOT / "scripts" / "serve.py"), f"--artefact={shop / 'served'}", f"--port={port}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    log = (tmp_path / "log").open("w", encoding="utf-8")
    with subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=tmp_path) as process:
        try:
            wait_until(lambda: "Uvicorn running" in (tmp_path / "log").read_text(encoding="utf-8"))
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("POST", "/score", json.dumps({"rows": rows_of(shop)[:2]}))
            assert connection.getresponse().status == 200
            connection.close()
            process.terminate()
            assert process.wait(60) == 143
        finally:
            process.kill()
    assert "Traceback" not in (tmp_path / "log").read_text(encoding="utf-8")

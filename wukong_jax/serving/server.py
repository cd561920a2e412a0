"""An HTTP server for an artefact: POST rows, get scores; a starting point for a service of one's own.

    POST /score    {"rows": [{"price": 3.5, "item": "a17"}, ...]}
                   -> {"objectives": ["click"], "scores": [[0.03], null], "errors": [{"row": 1, "message": "..."}],
                       "artefact": {"name": ..., "step": ..., "created": ...}}
    GET /health    the artefact that is served
    GET /metrics   counts and latencies in the text format of Prometheus

A row that cannot be read has null in `scores` and a line in `errors`; the others are scored. The server reads JSON
only, of limited size and number of rows. When the folder of the artefact is replaced, the new one is loaded and checked
beside the old one, and takes over between two batches; an artefact that cannot be loaded changes nothing but a count.
"""

import asyncio
import bisect
import contextlib
import dataclasses
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from wukong_jax.errors import UserError
from wukong_jax.messages import first_line
from wukong_jax.serving.artefact import MANIFEST, Manifest
from wukong_jax.serving.batching import Batcher, BusyServerError, ClosedServerError
from wukong_jax.serving.scorer import BUCKETS, Scorer, load_scorer

_LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)  # seconds, upper ends


@dataclasses.dataclass(frozen=True)
class ServerLimits:
    """What the server accepts, and how it batches."""

    request_bytes: int = 8 << 20
    request_rows: int = 4096
    waiting_rows: int = 16_384  # rows of all requests that may wait; more are refused with status 503
    batch_rows: int = 1024
    reload_seconds: float = 2.0  # how often the folder is looked at


class ArtefactServer:
    """The state behind the routes: the batcher, the folder that is watched, and latencies."""

    def __init__(
        self,
        folder: Path,
        limits: ServerLimits,
        say: Callable[[str], None] = print,
        buckets: tuple[int, ...] = BUCKETS,
    ) -> None:
        """Loads the artefact.

        Args:
          folder: the artefact.
          limits: limits of requests.
          say: prints a message.
          buckets: see `load_scorer`.

        Raises:
          UserError: the artefact cannot be loaded, or needs columns that no request has.
        """
        self._folder, self._limits, self._say, self._buckets = folder, limits, say, buckets
        self._seen = _identify(folder)
        self._batcher = Batcher(self._load(), limits.batch_rows, limits.waiting_rows)
        self._latencies = [0] * (len(_LATENCIES) + 1)
        self._latency_sum = 0.0

    def build_app(self) -> Starlette:
        """Builds the ASGI application."""
        routes = [
            Route("/score", self._score, methods=["POST"]),
            Route("/health", self._health),
            Route("/metrics", self._metrics),
        ]
        return Starlette(routes=routes, lifespan=self._run, exception_handlers={HTTPException: _answer_error})

    def _load(self) -> Scorer:
        scorer = load_scorer(self._folder, self._buckets)
        if scorer.manifest.extras:
            names = ", ".join(scorer.manifest.extras)
            raise UserError(f"{self._folder}: needs joined columns ({names}), which requests do not have")
        scorer.score_each([])  # refuses an environment without polars
        return scorer

    @contextlib.asynccontextmanager
    async def _run(self, app: Starlette) -> AsyncIterator[None]:
        """Watches the folder while the server runs; at the end, answers what waits."""
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.to_thread(self._batcher.close)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._limits.reload_seconds)
            await asyncio.to_thread(self.reload_if_changed)

    def reload_if_changed(self) -> bool:
        """Loads the artefact if its folder was replaced; returns whether a new one took over."""
        found = _identify(self._folder)
        if found == self._seen or found is None:  # none: it is being replaced at this moment
            return False
        try:
            scorer = self._load()
            if _identify(self._folder) != found:  # replaced while it was read: the files may be of two artefacts
                return False
        except UserError as error:
            self._batcher.counts.failed_reloads += 1
            self._seen = found  # the next change is tried again
            self._say(f"not reloaded: {error}")
            return False
        self._seen = found
        self._batcher.exchange(scorer)
        self._say(f"serving {_describe(scorer.manifest)} from now on")
        return True

    async def _score(self, request: Request) -> Response:
        started = time.perf_counter()
        rows = self._read_rows(await self._read_body(request))
        try:
            answers = await asyncio.wrap_future(self._batcher.submit(rows))
        except BusyServerError:
            raise HTTPException(503, "too many rows wait; try again", {"Retry-After": "1"}) from None
        except ClosedServerError:
            raise HTTPException(503, "the server ends") from None
        except UserError as error:
            raise HTTPException(500, str(error)) from None
        scores = [None if isinstance(answer, str) else np.asarray(answer).tolist() for answer in answers.rows]
        errors = [{"row": row, "message": answer} for row, answer in enumerate(answers.rows) if isinstance(answer, str)]
        manifest = answers.scorer.manifest
        seconds = time.perf_counter() - started
        self._latencies[bisect.bisect_left(_LATENCIES, seconds)] += 1
        self._latency_sum += seconds
        return JSONResponse(
            {
                "objectives": list(manifest.objectives),
                "scores": scores,
                "errors": errors,
                "artefact": _describe_as_mapping(manifest),
            }
        )

    async def _read_body(self, request: Request) -> bytes:
        limit = self._limits.request_bytes
        too_large = HTTPException(413, f"the body has more than {limit} bytes; send fewer rows at once")
        announced = request.headers.get("content-length", "0")
        if announced.isdigit() and int(announced[:20]) > limit:
            raise too_large
        body = bytearray()
        try:
            async for part in request.stream():
                body += part
                if len(body) > limit:
                    raise too_large
        except ClientDisconnect:
            raise HTTPException(400, "the client is gone") from None
        return bytes(body)

    def _read_rows(self, body: bytes) -> list[Any]:
        try:
            content = json.loads(body, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise HTTPException(400, f"the body is not JSON ({first_line(error)[:100]})") from None
        rows = content.get("rows") if isinstance(content, dict) else None
        if not isinstance(rows, list) or len(content) != 1:
            raise HTTPException(400, 'the body: expected {"rows": [{"column": value, ...}, ...]}')
        if len(rows) > self._limits.request_rows:
            raise HTTPException(413, f"{len(rows)} rows; send at most {self._limits.request_rows} at once")
        return rows

    async def _health(self, request: Request) -> Response:
        manifest = self._batcher.scorer.manifest
        return JSONResponse({"status": "ok", "artefact": _describe_as_mapping(manifest)})

    async def _metrics(self, request: Request) -> Response:
        return PlainTextResponse(self.format_metrics(), media_type="text/plain; version=0.0.4")

    def format_metrics(self) -> str:
        """Returns the counts in the text format of Prometheus."""
        counts = dataclasses.asdict(self._batcher.counts)
        seconds = counts.pop("scoring_seconds")
        lines = []
        for name, value in [*counts.items(), ("scoring_seconds", seconds)]:
            lines += [f"# TYPE wukong_jax_{name}_total counter", f"wukong_jax_{name}_total {value}"]
        waiting = self._batcher.waiting_rows
        lines += ["# TYPE wukong_jax_waiting_rows gauge", f"wukong_jax_waiting_rows {waiting}"]
        lines.append("# TYPE wukong_jax_request_seconds histogram")
        total = 0
        for end, count in zip([*map(str, _LATENCIES), "+Inf"], self._latencies, strict=True):
            total += count
            lines.append(f'wukong_jax_request_seconds_bucket{{le="{end}"}} {total}')
        lines += [f"wukong_jax_request_seconds_sum {self._latency_sum}", f"wukong_jax_request_seconds_count {total}"]
        return "\n".join(lines) + "\n"


async def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number; send null for a missing value")


def _identify(folder: Path) -> tuple[int, int, int] | None:
    """Returns what changes when an artefact is replaced; None if there is none."""
    try:
        found = os.stat(folder / MANIFEST)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _describe_as_mapping(manifest: Manifest) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "step": manifest.step,
        "created": manifest.created,
        "readable_until": manifest.readable_until,
    }


def _describe(manifest: Manifest) -> str:
    return f"{manifest.name!r}, step {manifest.step}, exported {manifest.created}"

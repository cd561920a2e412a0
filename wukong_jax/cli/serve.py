"""Serve an artefact over HTTP: POST rows as JSON, get scores.

    wukong-jax export --workdir=runs/mine --output=served/mine
    wukong-jax serve --artefact=served/mine --port=8000
    curl -d '{"rows": [{"price": 3.5, "item": "a17"}]}' http://127.0.0.1:8000/score

Needs the extra `serve`. /health and /metrics tell about the server. Export into the same folder, and the server goes
over to the new artefact without dropping a request. It has no passwords and no encryption: put it behind what has.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

from wukong_jax.cli.settings import ProgramFlags
from wukong_jax.errors import UserError
from wukong_jax.ranges import Above, AtLeast, Between


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(ProgramFlags):
    """The command's flags."""

    artefact: Annotated[str, "folder that wukong-jax export wrote"]
    host: Annotated[str, "address to listen on; 0.0.0.0 for all of this machine's"] = "127.0.0.1"
    port: Annotated[int, "port to listen on; 0 for a free one", Between(0, 65_535)] = 8000
    request_bytes: Annotated[int, "largest body of a request", AtLeast(1)] = 8 << 20
    request_rows: Annotated[int, "most rows of a request", AtLeast(1)] = 4096
    waiting_rows: Annotated[int, "most rows that wait; more requests are refused", AtLeast(1)] = 16_384
    batch_rows: Annotated[int, "rows of several requests that are scored at once", AtLeast(1)] = 1024
    reload_seconds: Annotated[float, "how often the folder is looked at for a new artefact", Above(0)] = 2.0


def run(settings: Settings) -> None:
    """Loads the artefact and serves it until a signal."""
    try:
        import uvicorn

        from wukong_jax.serving.loaded_program import run_on_calling_thread
        from wukong_jax.serving.server import ArtefactServer, ServerLimits
    except ImportError as error:
        raise UserError(f"{error.name}: is not installed; install wukong-jax[serve]") from None
    run_on_calling_thread()
    limits = ServerLimits(
        settings.request_bytes,
        settings.request_rows,
        settings.waiting_rows,
        settings.batch_rows,
        settings.reload_seconds,
    )
    app = ArtefactServer(Path(settings.artefact), limits).build_app()
    config = uvicorn.Config(app, settings.host, settings.port, log_level="info", access_log=False)
    uvicorn.Server(config).run()

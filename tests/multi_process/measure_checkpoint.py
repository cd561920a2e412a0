"""Measures a checkpoint of a large table that several processes save and restore.

    python -m tests.multi_process.measure_checkpoint --processes=2 --rows=8388593 --workdir=runs/large_checkpoint

Prints a JSON object a process: seconds for which the first save and the next one block, until the first is on disk, and
of restoring; and peaks of memory above what was resident before, as shares of the process's own rows.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.multi_process.processes import build_environment
from tests.repository import ROOT
from wukong_jax.clusters.local_processes import find_free_port

WIDTH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, kind, default in (
        ("processes", int, 2),
        ("rows", int, 8_388_593),
        ("process", int, -1),
        ("port", int, 0),
    ):
        parser.add_argument(f"--{name}", type=kind, default=default)
    parser.add_argument("--workdir", type=Path, required=True)
    flags = parser.parse_args()
    if flags.process >= 0:
        measure(flags)
        return
    shutil.rmtree(flags.workdir, ignore_errors=True)
    flags.workdir.mkdir(parents=True)
    words = [
        sys.executable,
        "-m",
        "tests.multi_process.measure_checkpoint",
        f"--port={find_free_port()}",
        *sys.argv[1:],
    ]
    team = [
        subprocess.Popen([*words, f"--process={i}"], env=build_environment(), cwd=ROOT) for i in range(flags.processes)
    ]
    sys.exit(max(process.wait() for process in team))


def measure(flags: argparse.Namespace) -> None:
    from wukong_jax.config import build_run_config
    from wukong_jax.runs.checkpoints import Checkpoints
    from wukong_jax.runs.progress import RunProgress
    from wukong_jax.schema import CategoricalColumn, LabelColumn, Schema, Source
    from wukong_jax.sharding.team import find_team, start_team
    from wukong_jax.sharding.team_connection import TeamPlace
    from wukong_jax.training.run import build_run

    start_team(TeamPlace(f"127.0.0.1:{flags.port}", flags.processes, flags.process), 1, 600.0)
    columns = tuple(
        CategoricalColumn(name, rows=n, encoding="identity") for name, n in (("id", flags.rows), ("few", 9))
    )
    schema = Schema("large", Source("csv"), labels=(LabelColumn("click"),), categorical=columns)
    config = {
        "name": "a large table",
        "data": {"format": "blocks", "path": "unused"},
        "embeddings": {"width": WIDTH, "optimizer": {"kind": "sgd", "learning_rate": 0.1}},
        "model": {"factory": "wukong_jax.models.dlrm:build", "options": {}},
        "exchange": {"options": {"tables": {"id": "row_wise", "few": "replicated"}}},
        "training": {"batch_size": 64, "steps": 1},
    }
    run = build_run(build_run_config(config), schema)
    state: Any = run.init_state(None)
    own = 4 * WIDTH * flags.rows / flags.processes
    checkpoints = Checkpoints(flags.workdir / "checkpoints", run.exchange)
    progress = RunProgress(data_fingerprint="none")
    checkpoints.prepare(state)  # as training does, which then compiles its step for longer than this takes
    checkpoints.latest_step()  # which waits for the thread
    find_team().wait("start")
    before, began = start_peak(), time.monotonic()
    checkpoints.save(state, progress)
    blocked = time.monotonic() - began
    checkpoints.wait()
    saved = time.monotonic() - began
    row = {"process": flags.process, "own_gib": own / 2**30, "blocked_seconds": blocked, "save_seconds": saved}
    row["save_peak_share"] = (read_peak() - before) / own
    state = state.replace(step=state.step + 1)
    find_team().wait("the next save")
    began = time.monotonic()
    checkpoints.save(state, progress)
    row["blocked_seconds_next"] = time.monotonic() - began
    checkpoints.close()
    del state
    reader = Checkpoints(flags.workdir / "checkpoints", run.exchange, read_only=True)
    find_team().wait("saved")
    before, began = start_peak(), time.monotonic()
    restored = reader.restore(run.abstract_state(), "latest", run.state_sharding)
    row["restore_seconds"] = time.monotonic() - began
    row["restore_peak_share"] = (read_peak() - before) / own
    del restored
    row["parts"] = count_parts(flags.workdir / "checkpoints" / "latest" / "1")
    print(json.dumps({name: round(value, 3) for name, value in row.items()}), flush=True)
    find_team().leave()
    os._exit(0)


def start_peak() -> float:
    """Restarts the count of this process's peak memory, and returns what is resident now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return read_status("VmRSS")


def read_peak() -> float:
    return read_status("VmHWM")


def read_status(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024.0 * int(next(line for line in lines if line.startswith(name)).split()[1])


def count_parts(step: Path) -> int:
    """Returns in how many parts the stack with most of them lies in the files."""
    import tensorstore as ts

    most = 0
    open_store = ts.KvStore.open
    store = open_store({"driver": "ocdbt", "base": f"file://{(step / 'stacks').absolute()}/"}).result()
    for key in store.list().result():
        if key.endswith(b"/.zarray"):
            array = json.loads(store.read(key).result().value)
            parts = 1
            for length, part in zip(array["shape"], array["chunks"], strict=True):
                parts *= -(-length // part)
            most = max(most, parts)
    return most


if __name__ == "__main__":
    main()

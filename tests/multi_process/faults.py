"""Makes a process of a team fail at a given stage; a config file calls `plan_fault`, so that it runs in real processes.

The fault is read from the environment: TEAM_FAULT="KIND:PROCESS:STAGE", where STAGE is how a stage begins that
`Team.mark` is told, such as "training step 9" or "evaluating batch 2". KIND is "kill", "stop" (SIGSTOP), "stuck",
"slow" (for seconds), "full disk", "damaged blocks" or "error".
"""

import os
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from wukong_jax.data.blocks import row_blocks
from wukong_jax.sharding.team import Team

VARIABLE = "TEAM_FAULT"
MADE = "fault made at "
SLOW_SECONDS = 4.0


def plan_fault() -> None:
    """Lets this process fail as the environment says; does nothing if it says nothing."""
    if VARIABLE not in os.environ:
        return
    kind, process, stage = os.environ[VARIABLE].split(":")
    mark = Team.mark

    def mark_or_fail(team: Team, name: str, busy: bool = False) -> None:
        mark(team, name, busy)
        if team.index == int(process) and name.startswith(stage) and team.count > 1:
            Team.mark = mark
            print(f"{MADE}{time.time()}", file=sys.stderr, flush=True)
            fail(kind)

    Team.mark = mark_or_fail


def fail(kind: str) -> Any:
    """Does what the kind says."""
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif kind == "stuck":
        while True:
            time.sleep(1.0)
    elif kind == "slow":
        time.sleep(SLOW_SECONDS)
    elif kind == "damaged blocks":
        damage_blocks()
    elif kind == "full disk":  # every later write of a file fails, as on a full disk
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    else:
        raise RuntimeError("made for the test")


def damage_blocks() -> None:
    """Lets this process read other bytes than the files of blocks have, as from a bad disk or cache of its machine."""
    open_reader = row_blocks.ArrayRecordReader

    def open_damaged(path: str, options: str) -> Any:
        content = bytearray(Path(path).read_bytes())
        for part in range(1, 8):
            content[len(content) * part // 8] ^= 255
        with tempfile.NamedTemporaryFile(suffix=".array_record", delete=False) as copy:
            copy.write(content)
        return open_reader(copy.name, options)

    row_blocks.ArrayRecordReader = open_damaged

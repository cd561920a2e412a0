"""Run a command in several processes of this machine that train together.

    wukong-jax launch_local --processes=2 --devices=2 -- train --config=quickstart --workdir=runs/mine

Each process has so many CPU devices, or its share of --gpus. Lines of output start with the number of their process.
SIGTERM and SIGINT are passed on. When a process ends badly, the others end, too; the exit code is that of the first.
"""

import dataclasses
from typing import Annotated

from wukong_jax.cli.flags import Positional
from wukong_jax.errors import UserError
from wukong_jax.ranges import Above, AtLeast


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Flags of the command."""

    processes: Annotated[int, "processes to start", AtLeast(1)]
    devices: Annotated[int | None, "CPU devices of each process", AtLeast(1)] = None
    gpus: Annotated[tuple[int, ...], "GPUs of this machine to deal out, all processes as many", AtLeast(0)] = ()
    grace: Annotated[
        float,
        "seconds in which the others may end after one has ended badly; longer than training.stall_limit",
        Above(0),
    ] = 180.0
    command: Annotated[tuple[str, ...], "the command and its flags, after --", Positional()]

    def __post_init__(self) -> None:
        """Checks that the devices are of one kind and divide."""
        if (self.devices is None) == (not self.gpus):
            raise UserError("--devices: give the CPU devices of each process, or --gpus, and not both")
        if len(self.gpus) % self.processes:
            raise UserError(f"--gpus: {len(self.gpus)} do not divide over --processes = {self.processes}")


def run(settings: Settings) -> None:
    """Starts the processes and waits for them."""
    import os
    import sys

    from wukong_jax.clusters.local_processes import LocalProcesses, find_free_port

    name, *arguments = settings.command
    coordinator, count = f"127.0.0.1:{find_free_port()}", settings.processes
    share = len(settings.gpus) // count or settings.devices
    commands, environments = [], []
    for process in range(count):
        place = [f"--processes={count}", f"--local_devices={share}"]
        if count > 1:
            place += [f"--coordinator={coordinator}", f"--process={process}"]
        commands.append([sys.executable, "-m", "wukong_jax", name, *place, *arguments])
        own = settings.gpus[process * len(settings.gpus) // count : (process + 1) * len(settings.gpus) // count]
        kind = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, own))} if own else {"JAX_PLATFORMS": "cpu"}
        environments.append(os.environ | kind)
    with LocalProcesses(commands, environments, settings.grace) as started:
        code = started.wait()
    if code:
        sys.exit(code)

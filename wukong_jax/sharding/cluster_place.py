"""Finds this process's place among those that train together: by flags, or by the variables of a cluster's launcher."""

import importlib
import os
from typing import Any

from wukong_jax.errors import UserError
from wukong_jax.sharding.team_connection import TeamPlace

# JAX's own detection, without Kubernetes': that one needs rights to ask the cluster, which a single pod has not.
_DETECTED = ("SlurmCluster", "OmpiCluster", "GkeTpuCluster", "GceTpuCluster")
_DETECT_SECONDS = 60


def find_place(coordinator: str, processes: int | None, process: int | None) -> TeamPlace | None:
    """Returns this process's place; flags beat what a cluster's variables say.

    Args:
      coordinator: `--coordinator`, "" if not given.
      processes: `--processes`; 1 is one process, wherever it runs.
      process: `--process`.

    Returns:
      The place; None: one process.

    Raises:
      UserError: a flag is missing or out of range, or a cluster's variables cannot be read.
    """
    if processes == 1:
        if coordinator or process:
            raise UserError(f"--processes = 1: leaves --coordinator = {coordinator!r} and --process without a meaning")
        return None
    found = None if coordinator and processes is not None and process is not None else _detect()
    if found is not None:
        coordinator = coordinator or found.coordinator
        processes = found.processes if processes is None else processes
        process = found.process if process is None else process
    if not coordinator and processes is None and process is None:
        return None
    for name, value in (("coordinator", coordinator), ("processes", processes), ("process", process)):
        if value in ("", None):
            raise UserError(f"--{name}: is missing; give --coordinator=HOST:PORT, --processes=N and --process=I")
    assert processes is not None
    assert process is not None
    if not 0 <= process < processes:
        raise UserError(f"--process = {process}: must lie in [0, {processes}), below --processes")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--coordinator = {coordinator!r}: is not HOST:PORT, such as 10.0.0.1:1234")
    return TeamPlace(coordinator, processes, process, None if found is None else found.gpu_ids)


def _detect() -> TeamPlace | None:
    """Asks JAX's detection for the place; None if there is no cluster, or a cluster of one process."""
    clusters: Any = importlib.import_module("jax._src.clusters")
    for name in _DETECTED:
        cluster = getattr(clusters, name, None)
        if cluster is None:
            continue
        try:
            if not cluster.is_env_present():  # which asks a server on a TPU VM
                continue
            count = cluster.get_process_count()
            if count == 1:
                return None
            port = os.environ.get("JAX_COORDINATOR_PORT")
            address = cluster.get_coordinator_address(timeout_secs=_DETECT_SECONDS, override_coordinator_port=port)
            own = cluster.get_local_process_id()
            gpu_ids = None if own is None or "TPU" in name.upper() else _choose_gpus(own)
            return TeamPlace(address, count, cluster.get_process_id(), gpu_ids)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{name}: its variables cannot be read ({type(error).__name__}: {error}); give "
                "--coordinator=HOST:PORT, --processes=N and --process=I, or --processes=1"
            ) from error
    return None


def _choose_gpus(own: int) -> tuple[int, ...] | None:
    """Deals the GPUs that this process sees out to the processes of its host; None: it takes all that it sees.

    JAX's choice, one GPU a process, leaves seven of eight idle where a process has a node of its own.

    Args:
      own: number of this process among those of its host.

    Raises:
      UserError: the GPUs do not divide.
    """
    count = _count_processes_here()
    if "JAX_LOCAL_DEVICE_IDS" in os.environ or count == 1:
        return None
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", os.environ.get("ROCR_VISIBLE_DEVICES"))
    if count is None or shown is None:
        return (own,)
    gpus = len(shown.split(","))
    if gpus == 1 or str(gpus) == os.environ.get("SLURM_GPUS_PER_TASK"):  # the launcher shows each process its own
        return None
    if gpus % count:
        raise UserError(
            f"CUDA_VISIBLE_DEVICES = {shown!r}: {gpus} GPUs do not divide over the {count} processes of this host; "
            "start one process a host, or one a GPU"
        )
    share = gpus // count
    return tuple(range(own * share, (own + 1) * share))


def _count_processes_here() -> int | None:
    """Returns how many processes the cluster's launcher starts on this host; None if it does not say."""
    if "OMPI_COMM_WORLD_LOCAL_SIZE" in os.environ:
        return int(os.environ["OMPI_COMM_WORLD_LOCAL_SIZE"])
    counts = []  # of each node, from a list such as 8(x3),4
    for part in filter(None, os.environ.get("SLURM_STEP_TASKS_PER_NODE", "").split(",")):
        tasks, _, nodes = part.rstrip(")").partition("(x")
        counts += [int(tasks)] * int(nodes or 1)
    if not counts:
        return None
    return counts[int(os.environ.get("SLURM_NODEID", 0))]

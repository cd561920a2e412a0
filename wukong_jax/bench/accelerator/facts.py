"""Finds out what the machine is: its device, memory, driver and versions."""

import importlib.metadata
import platform
import subprocess

import jax

from wukong_jax.bench.accelerator.sizes import Cases, Row, Size
from wukong_jax.reports.kept_results import describe_machine
from wukong_jax.sharding.backend import describe_slow_compiler, find_local_devices

_PACKAGES = ("jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin", "libtpu", "flax", "wukong-jax")


def list_cases(size: Size) -> Cases:
    """Returns the stage's cases."""
    del size
    return {"facts": describe_device}


def describe_device() -> Row:
    """Describes the first device, the driver and the versions of the packages."""
    device = find_local_devices()[0]
    memory = device.memory_stats() or {}
    row: Row = {
        "machine": describe_machine(),
        "platform": device.platform,
        "device_kind": device.device_kind,
        "devices": jax.local_device_count(),
        "compute_capability": getattr(device, "compute_capability", None),
        "memory_limit_bytes": memory.get("bytes_limit"),
        "driver": read_driver() if device.platform == "gpu" else None,
        "python": platform.python_version(),
    }
    row |= {f"version_{name}": version for name in _PACKAGES if (version := _find_version(name))}
    warning = describe_slow_compiler(device.platform)
    return row | ({"warning": warning} if warning else {})


def read_driver() -> str | None:
    """Returns what nvidia-smi says of the driver and the GPU; None without it."""
    query = [
        "nvidia-smi",
        "--query-gpu=driver_version,name,memory.total,clocks.max.sm,power.limit",
        "--format=csv,noheader",
    ]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().partition("\n")[0]


def _find_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None

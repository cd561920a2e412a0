"""Defines the TPU and GPU clusters that a step can be compiled for.

A target's full name is `tpu:CHIP:SHAPE[:SLICES]` (`tpu:v5p:4x4x4:4` is four slices of 4 x 4 x 4 chips) or
`gpu:CHIP:HOSTSxGPUS` (`gpu:h100:4x8` is four hosts with eight GPUs each). A TPU slice or a GPU host is one *host* of
the mesh: a group of chips that share the fast link.
"""

import dataclasses
import math
import re
from importlib import resources
from typing import Literal

from wukong_jax.errors import UserError

GIB = 1 << 30

# Memory that XLA:TPU makes available to a program on one device, by chip kind.
TPU_MEMORY_BYTES = {"v5e": int(15.75 * GIB), "v5p": int(95.74 * GIB), "v6e": int(31.25 * GIB)}

# GPU descriptions shipped with the package, in XLA's protobuf text format, by chip kind.
GPU_DESCRIPTIONS = {"h100": "h100_sxm.txtpb"}

NAMED_TARGETS = {
    "v5e_2x4": "tpu:v5e:2x4",
    "v5p_2x2x1": "tpu:v5p:2x2x1",
    "v5p_2x2x1_2slices": "tpu:v5p:2x2x1:2",
    "v5p_4x4x4": "tpu:v5p:4x4x4",
    "v5p_4x4x4_4slices": "tpu:v5p:4x4x4:4",
    "v6e_16x16": "tpu:v6e:16x16",
    "h100_1x1": "gpu:h100:1x1",
    "h100_1x8": "gpu:h100:1x8",
    "h100_2x8": "gpu:h100:2x8",
    "h100_4x8": "gpu:h100:4x8",
}

_FULL_NAME = re.compile(r"(tpu):([a-z0-9]+):(\d+(?:x\d+){1,2})(?::(\d+))?|(gpu):([a-z0-9_]+):(\d+)x(\d+)")
_MEMORY_SIZE = re.compile(r"\bdevice_memory_size:\s*(\d+)")


@dataclasses.dataclass(frozen=True)
class Target:
    """A cluster to compile for."""

    name: str  # full name
    platform: Literal["tpu", "gpu"]
    chip: str  # chip kind: v5p, h100
    shape: tuple[int, ...]  # TPU: chips along each axis of a slice; GPU: (GPUs per host,)
    hosts: int  # TPU slices or GPU hosts; H of the mesh
    memory_bytes: int  # memory of one device
    description: str = ""  # GPU only: `GpuTargetConfigProto` of the chip in text format

    @property
    def chips(self) -> int:
        """Devices per slice or host; C of the mesh."""
        return math.prod(self.shape)

    @property
    def devices(self) -> int:
        """Number of devices in the cluster."""
        return self.hosts * self.chips


def find_target(name: str, description: str | None = None) -> Target:
    """Builds the target that a name refers to.

    Args:
      name: one of `NAMED_TARGETS`, or a full name.
      description: `GpuTargetConfigProto` of a GPU in text format; None for the one shipped with the package.

    Returns:
      The target.

    Raises:
      UserError: the name has another form, the chip kind is unknown, or a TPU is given a description.
    """
    full = NAMED_TARGETS.get(name, name)
    match = _FULL_NAME.fullmatch(full)
    if not match:
        raise UserError(
            f"target = {name!r}: give one of {', '.join(NAMED_TARGETS)}, or tpu:CHIP:SHAPE[:SLICES] as "
            "tpu:v5p:4x4x4:4, or gpu:CHIP:HOSTSxGPUS as gpu:h100:4x8"
        )
    tpu, tpu_chip, shape, slices, _, gpu_chip, hosts, gpus = match.groups()
    if tpu:
        if description is not None:
            raise UserError(f"target_config: describes a GPU, but target = {name!r} is a TPU; leave it out")
        target = _build_tpu_target(full, tpu_chip, tuple(map(int, shape.split("x"))), int(slices or 1))
    else:
        target = _build_gpu_target(full, gpu_chip, int(hosts), int(gpus), description)
    if not target.devices:
        raise UserError(f"target = {name!r}: has no devices; every size must be at least 1")
    return target


def _build_tpu_target(name: str, chip: str, shape: tuple[int, ...], slices: int) -> Target:
    if chip not in TPU_MEMORY_BYTES:
        raise UserError(f"target = {name!r}: TPU {chip!r} is not known; choose from {', '.join(TPU_MEMORY_BYTES)}")
    return Target(name, "tpu", chip, shape, slices, TPU_MEMORY_BYTES[chip])


def _build_gpu_target(name: str, chip: str, hosts: int, gpus: int, description: str | None) -> Target:
    if description is None:
        if chip not in GPU_DESCRIPTIONS:
            known = ", ".join(GPU_DESCRIPTIONS)
            raise UserError(
                f"target = {name!r}: GPU {chip!r} is not one of those described here ({known}); describe it with "
                "--target_config=FILE (a GpuTargetConfigProto as text)"
            )
        description = (resources.files("wukong_jax.clusters") / GPU_DESCRIPTIONS[chip]).read_text(encoding="utf-8")
    memory = _MEMORY_SIZE.search(description)
    if not memory:
        raise UserError("target_config: has no device_memory_size; give a GpuTargetConfigProto as text")
    return Target(name, "gpu", chip, (gpus,), hosts, int(memory.group(1)), description)

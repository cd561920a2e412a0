"""Compiles the train step for a cluster ahead of time: compile time, memory per device, traffic, table copies.

Nothing is run and no array is allocated. The compilers are those used on the real hardware: libtpu for TPUs and JAX's
CUDA plugin for GPUs. Both work without a device; use a separate process for each.
"""

import dataclasses
import importlib.util
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.experimental import topologies

from wukong_jax.clusters.targets import Target
from wukong_jax.config import MeshConfig, RunConfig
from wukong_jax.embeddings.tables import Tables
from wukong_jax.errors import UserError
from wukong_jax.schema import Schema
from wukong_jax.sharding.traffic.hlo_text import Instruction, parse_module
from wukong_jax.sharding.traffic.step_traffic import Traffic, measure_traffic
from wukong_jax.training.run import Run, build_run

_EXTRAS = {"tpu": "tpu", "gpu": "compile_gpu"}
_CUDA_PLUGINS = ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13")

# Without these, libtpu queries the cloud's metadata server, logs errors, and allows only one process at a time.
_LIBTPU_WITHOUT_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5p-8",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

# Instructions that write a whole new array. A scatter that copies its operand first shows up as one of the first two.
_REMAKING = frozenset({"copy", "copy-start", "transpose", "convert", "sort", "pad", "concatenate", "select"})
_ON_CHIP = "S(1)"  # XLA:TPU's mark for arrays that it prefetches into fast on-chip memory
_HLO_DTYPES = {"float32": "f32", "int32": "s32", "uint16": "u16", "bfloat16": "bf16"}


@dataclasses.dataclass(frozen=True)
class DeviceMemory:
    """Bytes that a step needs on one device, including the compiler's padding."""

    arguments: int  # state and batch
    outputs: int  # state and metrics
    aliased: int  # outputs that reuse the memory of arguments
    temporaries: int
    code: int

    @property
    def total(self) -> int:
        """Memory that one device must have, in bytes."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


@dataclasses.dataclass(frozen=True)
class TableCopy:
    """An instruction that writes an array of the same shape as a device's part of a table."""

    opcode: str
    shape: str  # as printed in HLO
    op_name: str  # the JAX operation it comes from; "" if XLA added it


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """A train step compiled for a target, with its costs."""

    target: Target
    run: Run
    lower_seconds: float
    compile_seconds: float
    memory: DeviceMemory
    table_bytes: int  # tables and their optimizer arrays on one device, without the compiler's padding
    table_copies: tuple[TableCopy, ...]
    traffic: Traffic
    hlo_text: str

    @property
    def fits(self) -> bool:
        """Whether the step fits in a device's memory."""
        return self.memory.total <= self.target.memory_bytes


def use_no_accelerator() -> None:
    """Makes JAX use the CPU only in this process; call before JAX is first used."""
    jax.config.update("jax_platforms", "cpu")
    os.environ |= _LIBTPU_WITHOUT_TPU


def describe_devices(target: Target) -> list[jax.Device]:
    """Returns the target's devices in host order; code can be compiled for them, but they hold no arrays.

    Raises:
      UserError: the platform's compiler is missing, cannot be loaded or does not know the topology.
    """
    extra = _EXTRAS[target.platform]
    if not has_compiler(target.platform):
        raise UserError(
            f"target = {target.name!r}: no {target.platform.upper()} compiler here; "
            f"install it with pip install '.[{extra}]' (no device needed)"
        )
    shape = "x".join(map(str, target.shape))
    try:
        if target.platform == "tpu":
            name = f"{target.chip}:{shape}"
            described = topologies.get_topology_desc(name, platform="tpu", num_slices=target.hosts)
        else:
            described = topologies.get_topology_desc(
                target.chip,
                platform="cuda",
                topology=f"1x{target.hosts}x{shape}",
                target_config=target.description,
            )
    except RuntimeError as error:  # the base class of JAX's own errors
        raise UserError(
            f"target = {target.name!r}: {_first_line(error)}; give a shape that exists, or install the extra {extra!r} "
            "of this JAX's own version"
        ) from None
    devices = sorted(described.devices, key=lambda device: _host_index(target, device))
    if len(devices) != target.devices:
        raise UserError(
            f"target = {target.name!r}: has {len(devices)} devices, not {target.devices}; a chip of several cores is "
            "not supported"
        )
    return devices


def has_compiler(platform: str) -> bool:
    """Whether the compiler of a platform, "tpu" or "gpu", is installed."""
    if platform == "tpu":
        return importlib.util.find_spec("libtpu") is not None
    if importlib.util.find_spec("jax_plugins") is None:
        return False
    return any(importlib.util.find_spec(name) is not None for name in _CUDA_PLUGINS)


def _host_index(target: Target, device: jax.Device) -> int:
    """Index of the device's TPU slice or GPU host; devices of a single slice have no `slice_index`."""
    if target.platform == "gpu":
        return device.process_index
    return getattr(device, "slice_index", None) or 0


def fit_mesh(mesh: MeshConfig, target: Target) -> MeshConfig:
    """Returns the mesh to use on a target: its hosts and chips, or the config's finer division of the hosts.

    Raises:
      UserError: the config's mesh does not divide the target's hosts.
    """
    if (mesh.hosts, mesh.chips) in ((1, 0), (target.hosts, target.chips)):
        return dataclasses.replace(mesh, hosts=target.hosts, chips=target.chips)
    chips = mesh.chips or target.devices // mesh.hosts
    if mesh.hosts % target.hosts or mesh.hosts * chips != target.devices:
        raise UserError(
            f"config.mesh: hosts = {mesh.hosts}, chips = {mesh.chips} do not divide target {target.name!r} of "
            f"{target.hosts} x {target.chips}; leave both out to take the target's own"
        )
    return dataclasses.replace(mesh, chips=chips)


def compile_train_step(
    config: RunConfig, schema: Schema, target: Target, devices: Sequence[jax.Device], transport: str = "ring"
) -> CompiledStep:
    """Compiles a run's train step for a target.

    Args:
      config: the run's config; the default mesh (one host, all chips) is replaced by the target's.
      schema: a schema with all row counts.
      target: the cluster.
      devices: the target's devices in host order.
      transport: algorithms by which collectives are counted, see `measure_traffic`.

    Returns:
      The compiled step and its costs.

    Raises:
      UserError: the config does not fit the target, or the compiler refuses the step, for example for lack of memory.
    """
    config = dataclasses.replace(config, mesh=fit_mesh(config.mesh, target))
    run = build_run(config, schema, devices)
    inputs = run.abstract_inputs()
    lowered, lower_seconds = _time(lambda: run.jit_train_step().lower(*inputs))
    try:
        compiled, compile_seconds = _time(lowered.compile)
    except jax.errors.JaxRuntimeError as error:
        raise UserError(
            f"target = {target.name!r}: the compiler refuses the step: {_first_line(error)}; choose smaller tables or "
            "batches, or spread the tables over more devices"
        ) from None
    text, shards = compiled.as_text(), list(_table_shards(inputs[0].tables))
    return CompiledStep(
        target=target,
        run=run,
        lower_seconds=lower_seconds,
        compile_seconds=compile_seconds,
        memory=read_memory(compiled),
        table_bytes=sum(math.prod(shape) * dtype.itemsize for shape, dtype in shards),
        table_copies=find_table_copies(text, {f"{_HLO_DTYPES[d.name]}[{','.join(map(str, s))}]" for s, d in shards}),
        traffic=measure_traffic(text, config.mesh.hosts, config.mesh.chips, transport),
        hlo_text=text,
    )


def find_table_copies(hlo_text: str, shapes: set[str]) -> tuple[TableCopy, ...]:
    """Finds instructions of a compiled step that write a whole table, including those inside fusions.

    Args:
      hlo_text: the compiled step as HLO (XLA's intermediate representation) text.
      shapes: shapes of the tables on one device, as HLO prints them without layout: `f32[1000,16]`.

    Returns:
      The instructions found.
    """
    module = parse_module(hlo_text)
    lines = (line for computation in module.computations.values() for line in computation.instructions.values())
    return tuple(TableCopy(line.opcode, line.shape, line.op_name) for line in lines if _remakes(line, shapes))


def _remakes(line: Instruction, shapes: set[str]) -> bool:
    remade = line.opcode in _REMAKING and _ON_CHIP not in line.shape
    return remade and any(shape in line.shape for shape in shapes)


def _table_shards(tables: Tables) -> Iterator[tuple[tuple[int, ...], Any]]:
    """Yields the shape and dtype of every table array on one device."""
    for leaf in jax.tree.leaves(tables):
        yield leaf.sharding.shard_shape(leaf.shape), leaf.dtype


def read_memory(compiled: Any) -> DeviceMemory:
    """Reads the bytes that a compiled step needs on one device."""
    analysis = compiled.memory_analysis()
    return DeviceMemory(
        arguments=analysis.argument_size_in_bytes,
        outputs=analysis.output_size_in_bytes,
        aliased=analysis.alias_size_in_bytes,
        temporaries=analysis.temp_size_in_bytes,
        code=analysis.generated_code_size_in_bytes,
    )


def _time(function: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


def _first_line(error: Exception) -> str:
    """The first non-empty line of the message, without its full stop."""
    lines = (line.strip().rstrip(".") for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)

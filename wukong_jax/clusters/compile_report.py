"""Formats the costs of a step compiled for a cluster, as text and as JSON."""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from wukong_jax.clusters.compile_ahead import CompiledStep
from wukong_jax.errors import UserError
from wukong_jax.sharding.mesh import CHIP, HOST
from wukong_jax.sharding.traffic.step_traffic import format_traffic

_MIB = 1 << 20


def describe_step(step: CompiledStep) -> dict[str, Any]:
    """Returns the step's costs as a JSON object; sizes are bytes per device unless noted otherwise."""
    memory, traffic, mesh = step.memory, step.traffic, step.run.config.mesh
    return {
        "config": step.run.config.name,
        "target": step.target.name,
        "jax": jax.__version__,
        "hosts": mesh.hosts,
        "chips": mesh.chips,
        "batch_size": step.run.config.training.batch_size,
        "table_rows": sum(stack.rows for stack in step.run.layout.stacks),
        "embedding_parameters": step.run.layout.embedding_parameters,
        "lower_seconds": round(step.lower_seconds, 2),
        "compile_seconds": round(step.compile_seconds, 2),
        "memory": dataclasses.asdict(memory) | {"total": memory.total},
        "device_memory": step.target.memory_bytes,
        "fits": step.fits,
        "table_bytes": step.table_bytes,
        "table_copies": [dataclasses.asdict(copy) for copy in step.table_copies],
        "host_bytes": traffic.total(axis=HOST),  # per step, summed over the mesh
        "chip_bytes": traffic.total(axis=CHIP),
        "traffic": traffic.to_rows(),
    }


def load_findings(path: str | Path) -> dict[str, Any]:
    """Reads the costs that `describe_step` returned from a JSON file.

    Raises:
      UserError: the file has other content.
    """
    try:
        findings = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError:
        findings = None
    if not isinstance(findings, dict) or not {"target", "config", "memory", "traffic"} <= set(findings):
        raise UserError(f"{path}: not what compile_for_cluster writes with --output; give such a file")
    return findings


def flatten_findings(findings: Mapping[str, Any]) -> dict[str, Any]:
    """Flattens the costs into one row of a results table.

    Args:
      findings: the return value of `describe_step`.

    Returns:
      The scalar values; memory as `memory_<part>`; the number of table copies; and the traffic of each purpose on
      each axis as `<purpose>_<axis>_bytes`, summed over the mesh.
    """
    kept = {name: value for name, value in findings.items() if not isinstance(value, dict | list)}
    row = {"target": kept.pop("target"), "variant": kept.pop("config"), **kept}
    row |= {f"memory_{part}": size for part, size in findings["memory"].items()}
    row["table_copies"] = len(findings["table_copies"])
    for purpose in dict.fromkeys(collective["purpose"] for collective in findings["traffic"]):
        own = [collective for collective in findings["traffic"] if collective["purpose"] == purpose]
        for axis in (HOST, CHIP):
            row[f"{purpose.replace(' ', '_')}_{axis}_bytes"] = sum(collective[f"{axis}_bytes"] for collective in own)
    return row


def format_step(step: CompiledStep) -> str:
    """Formats the costs as text."""
    memory, mesh, gib = step.memory, step.run.config.mesh, step.target.memory_bytes / (1 << 30)
    lines = [
        f"{step.run.config.name} for {step.target.name}: {mesh.hosts} hosts x {mesh.chips} chips, batch "
        f"{step.run.config.training.batch_size:,}; lowered in {step.lower_seconds:.1f} s, compiled in "
        f"{step.compile_seconds:.1f} s",
        "",
        f"Memory per device ({step.target.chip}, {gib:.2f} GiB)",
    ]
    rows = {
        "arguments": memory.arguments,
        "outputs": memory.outputs,
        "aliased outputs": memory.aliased,
        "temporaries": memory.temporaries,
        "code": memory.code,
        "total": memory.total,
    }
    lines += [f"{name:<16}{size / _MIB:>14,.2f} MiB" for name, size in rows.items()]
    lines.append("it fits" if step.fits else "it DOES NOT FIT")
    lines.append(f"tables and their optimizer arrays: {step.table_bytes / _MIB:,.2f} MiB before padding")
    for copy, times in Counter(step.table_copies).items():
        origin = copy.op_name or "added by the compiler"
        lines.append(f"table-sized {copy.opcode} ({times}): {copy.shape}, {origin}")
    if not step.table_copies:
        lines.append("no table-sized copies")
    return "\n".join([*lines, "", format_traffic(step.traffic)])

"""Tests the bytes that the sparse update moves on an accelerator, as counted in the program compiled for it."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.embeddings.compile_bag_step import SLOTS as BAG_SLOTS
from tests.embeddings.compile_bag_step import WIDTH as BAG_WIDTH
from tests.embeddings.memory_bytes import FREE, Step, count_kernels
from tests.repository import ROOT
from wukong_jax.embeddings.sparse_update import BLOCK_ROWS
from wukong_jax.embeddings.sum_runs import CHUNK
from wukong_jax.sharding.traffic.hlo_text import parse_arrays, parse_module

# FBGEMM's published setting: 1.05 million lookups of width 128 in float32, 350 thousand distinct rows.
SLOTS, TOUCHED, TABLE_ROWS, WIDTH = 1 << 20, 350_000, 10_000_000, 128
ROW_BYTES = 4 * WIDTH
STATE_BYTES = {"sgd": 0, "rowwise_adagrad": 4, "lazy_adam": 2 * ROW_BYTES + 4}  # of a row

SUMMED = """HloModule m

%fused (p0: f32[40,4], p1: s32[8]) -> f32[8,4] {
  %p0 = f32[40,4]{1,0} parameter(0)
  %p1 = s32[8]{0} parameter(1)
  ROOT %g = f32[8,4]{1,0} gather(%p0, %p1), offset_dims={1}
}

%set (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  ROOT %b = f32[] parameter(1)
}

%write (q0: f32[1000,4], q1: s32[8], q2: f32[8,4]) -> f32[1000,4] {
  %q0 = f32[1000,4]{1,0} parameter(0)
  %q1 = s32[8]{0} parameter(1)
  %q2 = f32[8,4]{1,0} parameter(2)
  ROOT %s = f32[1000,4]{1,0} scatter(%q0, %q1, %q2), to_apply=%set
}

ENTRY %main (t: f32[1000,4], v: f32[40,4], i: s32[8]) -> f32[1000,4] {
  %t = f32[1000,4]{1,0} parameter(0)
  %v = f32[40,4]{1,0} parameter(1)
  %i = s32[8]{0} parameter(2)
  %f = f32[8,4]{1,0} fusion(%v, %i), kind=kLoop, calls=%fused
  %c = f32[8,4]{1,0} copy(%f)
  ROOT %w = f32[1000,4]{1,0} fusion(%t, %i, %c), kind=kInput, calls=%write
}
"""


@pytest.mark.parametrize(("is_gpu", "last_read"), [(True, 2 * 16 + 2 * 4), (False, 8 * 16 + 8 * 4)])
def test_counter_takes_rows_named_and_touched_instead_of_arrays(is_gpu, last_read):
    kernels = count_kernels(SUMMED, Step(table_rows=1000, slots=8, touched=2, is_gpu=is_gpu))
    row = 4 * 4
    assert [(k.read, k.written) for k in kernels] == [
        (8 * row + 8 * 4, 8 * row),  # rows named, and ids
        (8 * row, 8 * row),
        (last_read, 2 * row),  # a row is set, not read
    ]


def find_least(kind: str) -> int:
    """Bytes if each gradient is read once, and each touched row and its state are read and written once."""
    return SLOTS * ROW_BYTES + 2 * TOUCHED * (ROW_BYTES + STATE_BYTES[kind])


@pytest.mark.slow
@pytest.mark.parametrize("kind", STATE_BYTES)
def test_update_on_an_h100_moves_at_most_three_times_the_least_bytes(tmp_path: Path, kind: str):
    if importlib.util.find_spec("jax_cuda12_plugin") is None:
        pytest.skip("no jax_cuda12_plugin: install the extra compile_gpu")
    hlo_text = compile_update("h100_1x1", kind, tmp_path / "update.txt")
    gathers = CHUNK * (SLOTS + 2 * SLOTS // (CHUNK + 1))
    kernels = count_kernels(hlo_text, Step(TABLE_ROWS, SLOTS, TOUCHED, is_gpu=True, merge_gathers=gathers))
    assert find_least(kind) < sum(kernel.bytes for kernel in kernels) < 3 * find_least(kind), kernels
    assert not any(kernel.opcode == "copy" and kernel.bytes > SLOTS for kernel in kernels)
    # Where scatters add, rows are unique: XLA then needs no atomic additions, which JAX 0.10 compiles to loops.
    scatters = [line for line in hlo_text.splitlines() if " scatter(" in line]
    assert scatters
    assert all("unique_indices=true" in line for line in scatters)


@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, 4])
def test_update_on_a_tpu_moves_at_most_three_times_the_least_bytes(tmp_path: Path, shards: int):
    """Also of the columns of a column-wise table, whose rows' means are added up over the devices.

    The kernel that merges counts as reading the gradients and writing the sums once; what it adds up is not seen.
    """
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("no libtpu: install the extra tpu")
    kind = "rowwise_adagrad"
    hlo_text = compile_update("v5p_2x2x1", kind, tmp_path / "update.txt", shards)
    kernels = count_kernels(hlo_text, Step(TABLE_ROWS, SLOTS, TOUCHED, is_gpu=False, block=BLOCK_ROWS))
    assert find_least(kind) < sum(kernel.bytes for kernel in kernels) < 3 * find_least(kind), kernels
    assert not any(kernel.opcode == "copy" and kernel.bytes > SLOTS * 8 for kernel in kernels)


def compile_update(target: str, kind: str, output: Path, shards: int = 1) -> str:
    sizes = map(str, (SLOTS, TABLE_ROWS, WIDTH, shards))
    run_module("tests.embeddings.compile_update", target, kind, *sizes, str(output))
    return output.read_text(encoding="utf-8")


def run_module(*arguments: str) -> None:
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_step_on_an_h100_keeps_neither_rows_nor_row_gradients_of_bags(tmp_path: Path):
    """Bags are pooled while their rows are gathered, and the merge reads the bags' gradients."""
    if importlib.util.find_spec("jax_cuda12_plugin") is None:
        pytest.skip("no jax_cuda12_plugin: install the extra compile_gpu")
    output = tmp_path / "step.txt"
    run_module("tests.embeddings.compile_bag_step", str(output))
    hlo_text = output.read_text(encoding="utf-8")
    module = parse_module(hlo_text)
    per_slot = [
        line.name
        for line in module.computations[module.entry].instructions.values()
        if line.opcode not in FREE
        and any(a.dtype == "f32" and a.elements == BAG_SLOTS * BAG_WIDTH for a in parse_arrays(line.shape))
    ]
    assert len(per_slot) == 1, per_slot  # the merged gradients

"""Tests which tables get a custom layout, and that XLA:TPU then copies no table."""

import os
import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.layout import Format
from jax.sharding import NamedSharding, PartitionSpec

from tests.repository import ROOT
from wukong_jax.sharding.mesh import build_mesh
from wukong_jax.sharding.table_layout import choose_table_formats

SHAPES = {f"w{width}": (1000, width) for width in (8, 56, 64, 96, 128, 192, 256)} | {"accumulator": (1000,)}


def choose(platform: str) -> dict:
    shapes = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in SHAPES.items()}
    shardings = dict.fromkeys(shapes, NamedSharding(build_mesh(), PartitionSpec(("host", "chip"))))
    mesh = SimpleNamespace(devices=np.array([[SimpleNamespace(platform=platform)]], object))
    return choose_table_formats(mesh, shapes, shardings)  # type: ignore[arg-type]


def test_rows_that_tpus_would_copy_are_pinned_on_tpus():
    pinned = {name for name, placed in choose("tpu").items() if isinstance(placed, Format)}
    assert pinned == {"w64", "w96", "w192"}
    assert choose("tpu")["w64"].layout.major_to_minor == (0, 1)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_other_platforms_lay_tables_out_as_they_like(platform):
    assert all(isinstance(placed, NamedSharding) for placed in choose(platform).values())


COPIES_AT_WIDTH_64 = """
import dataclasses, sys
from wukong_jax.clusters.targets import find_target
from wukong_jax.clusters.compile_ahead import compile_train_step
from wukong_jax.clusters.compile_ahead import describe_devices
from wukong_jax.clusters.compile_ahead import use_no_accelerator
use_no_accelerator()
from wukong_jax.clusters.assumed_schema import assume_rows
from wukong_jax.config import build_run_config
from wukong_jax.data.raw.builtin_schemas import load_builtin_schema
config = build_run_config({
    "name": "compiled",
    "data": {"format": "raw", "path": "unread", "schema": "criteo"},
    "embeddings": {"width": 64, "optimizer": {"kind": "rowwise_adagrad", "learning_rate": 0.01}},
    "model": {"factory": "wukong_jax.models.dlrm:build"},
    "training": {"batch_size": 512, "evaluation_batch_size": 512, "steps": 1},
    "exchange": {"options": {"placement": "table_wise"}},
})
target = find_target("v5p_2x2x1")
schema = assume_rows(load_builtin_schema("criteo"), (20_000,))
step = compile_train_step(config, schema, target, describe_devices(target))
assert step.memory.aliased >= step.table_bytes
print("copies", len(step.table_copies))
"""


@pytest.mark.slow
def test_step_copies_no_table_of_width_64_on_tpu():
    if find_spec("libtpu") is None:
        pytest.skip("no libtpu: install the extra tpu")
    # A process of its own: libtpu is set up by the environment, and this process's devices are CPUs already.
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-c", COPIES_AT_WIDTH_64]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("copies 0")

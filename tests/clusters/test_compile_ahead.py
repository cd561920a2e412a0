"""Tests compiling without running: for CPU devices always, for TPUs and GPUs if their compilers are installed."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from tests.repository import ROOT as REPOSITORY
from wukong_jax.clusters import compile_ahead
from wukong_jax.clusters.assumed_schema import assume_rows
from wukong_jax.clusters.compile_ahead import (
    DeviceMemory,
    compile_train_step,
    describe_devices,
    find_table_copies,
    fit_mesh,
)
from wukong_jax.clusters.compile_report import describe_step, flatten_findings, format_step
from wukong_jax.clusters.targets import Target, find_target
from wukong_jax.config import MeshConfig, RunConfig, build_run_config
from wukong_jax.data.raw.builtin_schemas import load_builtin_schema
from wukong_jax.errors import UserError
from wukong_jax.sharding.mesh import CHIP, HOST

CPUS = Target("cpu:2x4", "gpu", "cpu", (4,), hosts=2, memory_bytes=1 << 30)
ROWS, WIDTH, BATCH = 500, 1, 32


def build_config(placement: str = "row_wise", batch: int = BATCH, mesh: dict | None = None) -> RunConfig:
    return build_run_config(
        {
            "name": "compiled",
            "data": {"factory": "raw", "path": "unread", "schema": "criteo"},
            "embeddings": {"width": WIDTH, "optimizer": {"kind": "rowwise_adagrad", "learning_rate": 0.01}},
            "model": {"factory": "wukong_jax.models.logistic_regression:build"},
            "training": {"batch_size": batch, "evaluation_batch_size": batch, "steps": 1},
            "exchange": {"options": {"placement": placement}},
            "mesh": mesh or {},
        }
    )


def compile_on_cpus(target: Target = CPUS, **settings):
    schema = assume_rows(load_builtin_schema("criteo"), (ROWS,))
    return compile_train_step(build_config(**settings), schema, target, jax.devices())


@pytest.fixture(scope="module")
def row_wise():
    return compile_on_cpus()


def test_memory_holds_a_devices_share_of_the_tables_once(row_wise):
    share = -(-ROWS // 8) * 26  # rows of a device, each table's rounded up
    # Rows and accumulator; on CPU also the int32 column through which equal rows merge.
    assert row_wise.table_bytes == share * (WIDTH * 4 + 4 + 4)
    memory = row_wise.memory
    assert memory.arguments > row_wise.table_bytes
    assert memory.aliased >= row_wise.table_bytes
    assert memory.total < 2 * memory.arguments + memory.temporaries
    assert row_wise.fits


def test_step_makes_no_table_anew(row_wise):
    assert row_wise.table_copies == ()
    assert "no table-sized copies" in format_step(row_wise)


def test_traffic_is_counted_on_the_targets_mesh(row_wise):
    traffic = row_wise.traffic
    assert (traffic.hosts, traffic.chips) == (2, 4)
    # Row-wise tables: each device's ids go to all others, 4 of 7 of them on the other host, once.
    sent = BATCH // 8 * 26 * 4 * 8 * 7
    assert traffic.total(purpose="ids", axis=HOST) + traffic.total(purpose="ids", axis=CHIP) == sent


def test_step_too_large_does_not_fit():
    small = dataclasses.replace(CPUS, memory_bytes=1000)
    step = compile_on_cpus(small)
    assert not step.fits
    assert "DOES NOT FIT" in format_step(step)
    assert describe_step(step)["fits"] is False


def test_json_holds_what_the_text_says(row_wise):
    described = json.loads(json.dumps(describe_step(row_wise)))
    assert described["memory"]["total"] == row_wise.memory.total
    assert described["host_bytes"] == sum(row["host_bytes"] for row in described["traffic"])
    assert (described["hosts"], described["chips"], described["table_rows"]) == (2, 4, 26 * ROWS)


def test_kept_row_is_flat_and_its_purposes_add_up(row_wise):
    row = flatten_findings(json.loads(json.dumps(describe_step(row_wise))))
    assert not any(isinstance(value, dict | list) for value in row.values())
    assert (row["target"], row["variant"], row["table_copies"]) == ("cpu:2x4", "compiled", 0)
    assert row["memory_total"] == row_wise.memory.total
    assert row["ids_host_bytes"] == row_wise.traffic.total(purpose="ids", axis=HOST) > 0
    for axis in (HOST, CHIP):
        of_purposes = sum(v for name, v in row.items() if name.endswith(f"_{axis}_bytes"))
        assert of_purposes == row[f"{axis}_bytes"] == row_wise.traffic.total(axis=axis)


def test_findings_are_kept_in_the_order_given_and_other_files_refused(row_wise, tmp_path):
    findings = describe_step(row_wise)
    (tmp_path / "a.json").write_text(json.dumps(findings))
    (tmp_path / "b.json").write_text(json.dumps(findings | {"config": "another"}))
    (tmp_path / "c.json").write_text("[1]")
    a, b, c = (str(tmp_path / f"{name}.json") for name in "abc")
    done = run_python("keep_compiled.py", f"--output={tmp_path}/kept", b, a)
    assert done.returncode == 0, done.stderr
    kept = json.loads((tmp_path / "kept" / "results.json").read_text())
    assert [row["variant"] for row in kept["rows"]] == ["another", "compiled"]
    refused = run_python("keep_compiled.py", f"--output={tmp_path}/other", a, c)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "c.json: not what" in refused.stderr
    assert not (tmp_path / "other").exists()


def test_total_counts_aliased_outputs_once():
    assert DeviceMemory(arguments=10, outputs=7, aliased=6, temporaries=3, code=1).total == 15


@pytest.mark.parametrize("donated", [True, False])
def test_table_copy_is_found_where_the_table_is_not_donated(donated):
    table, ids = jax.ShapeDtypeStruct((1000, 16), jnp.float32), jax.ShapeDtypeStruct((8,), jnp.int32)
    update = jax.jit(lambda t, i: t.at[i].set(1.0), donate_argnums=0 if donated else ())
    copies = find_table_copies(update.lower(table, ids).compile().as_text(), {"f32[1000,16]"})
    assert [copy.opcode for copy in copies] == ([] if donated else ["copy"])


def test_prefetch_into_on_chip_memory_is_no_table_copy():
    line = "%c = (f32[1000,16]{1,0:T(8,128)S(1)}, f32[1000,16]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%p)"
    entry = f"ENTRY %e {{\n  %p = f32[1000,16]{{1,0:T(8,128)}} parameter(0)\n  ROOT {line}\n}}\n"
    text = f"HloModule m, num_partitions=1\n\n{entry}"
    assert find_table_copies(text, {"f32[1000,16]"}) == ()
    assert len(find_table_copies(text.replace("S(1)", ""), {"f32[1000,16]"})) == 1


@pytest.mark.parametrize(
    ("mesh", "fitted"),
    [
        (MeshConfig(), MeshConfig(4, 64)),
        (MeshConfig(4, 64), MeshConfig(4, 64)),
        (MeshConfig(4, 0), MeshConfig(4, 64)),
        (MeshConfig(16, 0), MeshConfig(16, 16)),
        (MeshConfig(fsdp="all", fsdp_min_size=7), MeshConfig(4, 64, fsdp="all", fsdp_min_size=7)),
        (MeshConfig(16, reduce_dtype="bfloat16"), MeshConfig(16, 16, reduce_dtype="bfloat16")),
    ],
)
def test_mesh_is_the_targets_or_divides_its_hosts(mesh, fitted):
    assert fit_mesh(mesh, find_target("v5p_4x4x4_4slices")) == fitted


@pytest.mark.parametrize("mesh", [MeshConfig(2, 0), MeshConfig(4, 8), MeshConfig(12, 0), MeshConfig(1, 256)])
def test_mesh_across_hosts_is_refused(mesh):
    with pytest.raises(UserError, match=r"config\.mesh"):
        fit_mesh(mesh, find_target("v5p_4x4x4_4slices"))


def test_batch_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match=r"config\.training\.batch_size = 12"):
        compile_on_cpus(batch=12)


@pytest.mark.parametrize(("target", "extra"), [("v5p_2x2x1", r"\.\[tpu\]"), ("h100_1x8", r"\.\[compile_gpu\]")])
def test_missing_compiler_names_the_extra(monkeypatch, target, extra):
    monkeypatch.setattr(compile_ahead.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=extra):
        describe_devices(find_target(target))


def run_script(*flags: str) -> subprocess.CompletedProcess:
    return run_python("compile_for_cluster.py", f"--config={REPOSITORY}/configs/public/criteo_10k.py", *flags)


def run_python(script: str, *flags: str) -> subprocess.CompletedProcess:
    """Runs Python in a child process, as a user would: in this process, JAX already has eight CPU devices."""
    environment = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    command = [sys.executable, str(REPOSITORY / "scripts" / script), *flags]
    environment["PYTHONPATH"] = str(REPOSITORY)
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "compiler"), [("v5p_2x2x1_2slices", "libtpu"), ("gpu:h100:2x2", "jax_cuda12_plugin")]
)
def test_script_compiles_for_hardware_that_is_not_here(tmp_path, target, compiler):
    if importlib.util.find_spec(compiler) is None:
        pytest.skip(f"no {compiler}: install the extra tpu or compile_gpu")
    output = tmp_path / "step.json"
    done = run_script(f"--target={target}", "--table_rows=20000", f"--output={output}")
    assert done.returncode == 0, done.stderr
    described = json.loads(output.read_text())
    assert described["hosts"] == 2
    assert described["fits"]
    assert described["host_bytes"] > 0
    assert described["memory"]["aliased"] >= described["table_bytes"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (("--target=nowhere",), 1, "error: target = 'nowhere'"),
        (("--target=h100_1x8", "--workdir=here"), 2, "usage error: unknown flag --workdir"),
        (("--target=h100_1x8", "--table_rows=1"), 2, "--table_rows = [1]: must be all at least 2"),
        (("--table_rows=5",), 2, "usage error: --target is missing"),
    ],
)
def test_script_refuses_in_one_line(flags, code, says):
    done = run_script(*flags)
    assert (done.returncode, says in done.stderr, "Traceback" in done.stderr) == (code, True, False)

"""Tests what an accelerator's compiler makes of split dense weights, compiled for eight H100 without them."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.repository import ROOT

WIDTH = 2048
CONFIG = f'''
"""Many equal layers of large weights over few rows, so that weights are all that counts."""

from wukong_jax.config import start_config


def get_config(layers):
    config = start_config()
    config.name = "deep"
    config.data.factory = "raw"
    config.data.schema = "criteo"
    config.embeddings.width = 4
    config.embeddings.optimizer.kind = "sgd"
    config.embeddings.optimizer.learning_rate = 0.1
    config.model.factory = "wukong_jax.models.dcnv2:build"
    config.model.options = {{"cross_layers": 1, "deep_hidden": ({WIDTH},) * int(layers)}}
    config.training.batch_size = config.training.evaluation_batch_size = 64
    config.training.steps = 1
    config.mesh.fsdp = "all"
    return config
'''


def compile_deep(folder: Path, layers: int, remat: bool) -> dict[str, Any]:
    """Compiles the step in a child process, as a user would: in this process, JAX already has eight CPU devices."""
    config, output = folder / "deep.py", folder / f"{layers}.json"
    config.write_text(CONFIG, encoding="utf-8")
    flags = [f"--config={config}:{layers}", "--target=h100_1x8", "--table_rows=100", f"--output={output}"]
    kept = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "scripts/compile_for_cluster.py"),
            *flags,
            f"--config.training.remat={remat}",
            "--config.data.path=unread",
        ],
        env=kept | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(output.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("remat", [False, True])
def test_no_copy_of_a_whole_weight_outlives_its_layer(tmp_path, remat):
    if importlib.util.find_spec("jax_cuda12_plugin") is None:
        pytest.skip("no jax_cuda12_plugin: install the extra compile_gpu")
    few, many = (compile_deep(tmp_path, layers, remat) for layers in (4, 12))
    whole, more = 4 * WIDTH**2, 8
    # A layer more keeps the shards of its weight, two moments: 3/8 of a copy, and its gradient for a moment.
    assert many["memory"]["arguments"] - few["memory"]["arguments"] < more * 0.4 * whole
    assert many["memory"]["temporaries"] - few["memory"]["temporaries"] < more * 0.3 * whole
    sent = [sum(row["chip_bytes"] for row in found["traffic"]) for found in (few, many)]
    # a ring over 8 devices sends 7/8 of a weight from each: gathered twice, and its gradient reduce-scattered
    assert (sent[1] - sent[0]) / (more * 7 * whole) == pytest.approx(3, rel=0.01)

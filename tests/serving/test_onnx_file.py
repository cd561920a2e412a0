"""Tests that a run as an ONNX model computes the run's logits in onnxruntime."""

import sys

import numpy as np
import pytest

from tests.cli.command import run_command
from tests.serving.conftest import open_on_one_device
from tests.serving.test_scorer import open_cached
from wukong_jax.errors import UserError
from wukong_jax.serving import load_scorer

pytest.importorskip("jax2onnx", reason="needs the extra `onnx`")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")

from wukong_jax.serving.onnx_file import export_onnx  # noqa: E402


def test_onnxruntime_computes_the_runs_logits(shop, tmp_path):
    said = []
    export_onnx(open_on_one_device(shop / "run"), tmp_path / "onnx", said.append)
    assert said[0].startswith("16 rows: onnxruntime's logits differ by at most")
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "model.onnx"), providers=["CPUExecutionProvider"])
    opened = open_cached(shop)
    batch = next(opened.read_split("test"))
    ids = np.array(batch.ids)
    ids[0, 0], ids[1, 1] = 10**6, -1  # beyond its table, and none
    expected = np.asarray(opened.predict_batch(batch._replace(ids=ids)))
    given = {"dense": batch.dense, "ids": ids, "domain": batch.domain}
    names = [one.name for one in session.get_inputs()]
    for rows in (1, 7, len(ids)):
        (found,) = session.run(["logits"], {name: given[name][:rows] for name in names})
        np.testing.assert_allclose(found, expected[:rows], rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match=r"was exported with --format=onnx; export it without"):
        load_scorer(tmp_path / "onnx")


@pytest.mark.parametrize("flag", ["--tables=int8", "--evaluate=test"])
def test_flags_without_effect_are_refused(shop, tmp_path, flag):
    with pytest.raises(UserError, match="not possible with --format=onnx; leave it out"):
        run_command("export", f"--workdir={shop / 'run'}", f"--output={tmp_path / 'x'}", "--format=onnx", flag)


def test_without_the_extra_it_is_one_line(shop, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(UserError, match=r"^--format = 'onnx': jax2onnx is not installed; install wukong-jax\[onnx\]$"):
        export_onnx(open_cached(shop), tmp_path / "x")

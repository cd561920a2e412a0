"""Tests a run whose folder is in a bucket: two processes save together, one goes on, and all score it."""

import json

import numpy as np
import pytest

from tests.multi_process.processes import CONFIG, LANES, launch, train
from tests.object_stores.servers import serve_store
from wukong_jax.files.object_store import ObjectFolder


def test_two_processes_save_to_a_bucket_and_one_goes_on_as_in_a_local_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with serve_store("gs") as url:
        run = f"{url}/run"
        for processes, devices, steps in ((2, 1, 4), (1, 2, 8)):
            words = (f"--config={CONFIG}", f"--workdir={run}", f"--config.training.steps={steps}")
            words += (f"--config.data.lanes={LANES}",)
            done = launch(processes, devices, "train", *words, reads=tmp_path / "reads")  # blocks as small
            assert done.returncode == 0, done.stderr
            found = ObjectFolder(run).list()
            assert f"checkpoints/latest/{steps}/commit_success.txt" in found
            in_place = any(name.startswith(f"checkpoints/latest/{steps}/stacks/") for name in found)
            assert in_place == (processes > 1)  # what several processes save, one of them need not hold
        summary = json.loads(ObjectFolder(run).read("summary.json"))
        scored = launch(2, 1, "evaluate", f"--workdir={run}")
        assert scored.returncode == 0, scored.stderr
    train(tmp_path / "run", 1, 2, 4)  # which ends with an evaluation, as the run in the bucket did
    local = train(tmp_path / "run", 1, 2, 8)
    assert summary["test"]["auc"] == pytest.approx(local["test"]["auc"], abs=1e-6)
    line = scored.stdout[scored.stdout.index("{") :].splitlines()[0]
    np.testing.assert_allclose(json.loads(line)["auc"], local["test"]["auc"], atol=1e-6)

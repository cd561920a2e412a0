"""Tests that two processes replay a teacher as one does: the same rows, embeddings and logits in the store."""

import numpy as np

from lattice.teacher.store import TeacherStore
from tests.multi_process.processes import CONFIG, launch

CHUNKS = 2


def replay(folder, processes, devices):
    words = (f"--config={CONFIG}:teacher", f"--workdir={folder / 'teacher'}", f"--store={folder / 'store'}")
    done = launch(processes, devices, "run_teacher", *words, "--keys=user,item", f"--chunks={CHUNKS}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def read_segments(folder):
    store = TeacherStore(folder / "store")
    segments = sorted(store.folder.glob("segment-*"))
    return [
        {name: np.load(one / f"{name}.npy") for name in ("keys", "written_at", "embeddings", "logits")}
        for one in segments
    ]


def test_two_processes_fill_the_store_that_one_fills(tmp_path):
    outputs = [replay(tmp_path / str(processes), processes, 2 // processes) for processes in (1, 2)]
    one, two = (read_segments(tmp_path / str(processes)) for processes in (1, 2))
    assert [len(segment["keys"]) for segment in one] == [len(segment["keys"]) for segment in two]
    assert all("chunk 1 of 2: trained to row 2,048, wrote 1,952 rows" in output for output in outputs)
    for whole, shared in zip(one, two, strict=True):
        np.testing.assert_array_equal(shared["keys"], whole["keys"])
        np.testing.assert_array_equal(shared["written_at"], whole["written_at"])
        assert np.std(whole["embeddings"].astype(float)) > 0.01
        np.testing.assert_allclose(shared["embeddings"], whole["embeddings"], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(shared["logits"], whole["logits"], rtol=1e-5, atol=1e-5)
    tables = [output[output.index("rows of a student") :].splitlines() for output in outputs]
    assert tables[0] == tables[1]  # the lead alone measures and prints

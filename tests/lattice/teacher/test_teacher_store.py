"""Tests the store against a dictionary, its age limit, crashed writers, concurrent readers, and refused input."""

import json
import multiprocessing
import time

import numpy as np
import pytest

from lattice.teacher.store import StoreDescription, TeacherStore, create_store
from wukong_jax.errors import UserError

DESCRIPTION = StoreDescription(width=3, objectives=("click", "like"), key_columns=("user", "item"))


def draw(rows, seed, keys=20):
    random = np.random.default_rng(seed)
    return (
        random.integers(0, keys, rows).astype(np.uint64) * np.uint64(2**59 + 1),  # the top bit in use
        random.integers(0, 100, rows),
        random.normal(size=(rows, 3)).astype(np.float16),
        random.normal(size=(rows, 2)).astype(np.float32),
    )


def slow_read(entries, key, now, time_to_live):
    """Returns the newest entry, and of entries with equal time the last one written."""
    best = None
    for at, embedding, logits in entries.get(int(key), []):
        if at <= now and (best is None or at >= best[0]):
            best = (at, embedding, logits)
    return best if best is not None and now - best[0] <= time_to_live else None


def test_store_equals_a_dictionary(tmp_path):
    store, entries = create_store(tmp_path, DESCRIPTION), {}
    reader = TeacherStore(tmp_path)
    for seed in range(4):
        arrays = draw(30, seed)
        store.write(*arrays)
        for key, at, embedding, logits in zip(*arrays, strict=True):
            entries.setdefault(int(key), []).append((at, embedding, logits))
    reader.refresh()
    keys, now = draw(300, 9, keys=25)[0], np.random.default_rng(5).integers(-10, 120, 300)
    for opened in (store, reader):
        found = opened.read(keys, now, 15)
        for place, (key, at) in enumerate(zip(keys, now, strict=True)):
            expected = slow_read(entries, key, at, 15)
            assert found.hit[place] == (expected is not None)
            if expected is None:
                assert found.age[place] == 0
                assert not found.embeddings[place].any()
                assert not found.logits[place].any()
            else:
                assert found.age[place] == at - expected[0]
                np.testing.assert_array_equal(found.embeddings[place], expected[1])
                np.testing.assert_array_equal(found.logits[place], expected[2])
    assert 0.1 < found.hit.mean() < 0.9


def test_empty_store_misses_everything(tmp_path):
    found = create_store(tmp_path, DESCRIPTION).read(draw(5, 0)[0], np.zeros(5, np.int64), 1e9)
    assert not found.hit.any()
    assert found.embeddings.shape == (5, 3)


def test_crashed_writer_leaves_what_was_whole(tmp_path, monkeypatch):
    store = create_store(tmp_path, DESCRIPTION)
    store.write(*draw(10, 0))
    before = TeacherStore(tmp_path).read(*draw(50, 1)[:2], 1e9)

    def crash(file, array):
        if file.name.endswith("logits.npy"):
            raise KeyboardInterrupt
        np.lib.format.write_array(file, array)

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", crash)
        with pytest.raises(KeyboardInterrupt):
            store.write(*draw(10, 2))
    assert list(tmp_path.glob(".unfinished-*"))
    after = TeacherStore(tmp_path).read(*draw(50, 1)[:2], 1e9)
    np.testing.assert_array_equal(before.hit, after.hit)
    store.write(*draw(10, 3))
    assert not list(tmp_path.glob(".unfinished-*"))
    assert len(list(tmp_path.glob("segment-*"))) == 2


def _write_for_ever(folder):
    store = TeacherStore(folder)
    for number in range(10_000):
        at = np.full(50, number)
        store.write(np.arange(50, dtype=np.uint64), at, np.full((50, 3), number % 1000), np.full((50, 2), number))


def test_readers_beside_a_writer_that_is_killed_see_whole_segments(tmp_path):
    create_store(tmp_path, DESCRIPTION)
    writer = multiprocessing.get_context("spawn").Process(target=_write_for_ever, args=(tmp_path,))
    writer.start()
    reader, seen, end = TeacherStore(tmp_path), 0, time.monotonic() + 90
    while seen < 15 and time.monotonic() < end:
        reader.refresh()
        found = reader.read(np.arange(50, dtype=np.uint64), np.full(50, 10**6), 1e9)
        if found.hit.any():
            assert found.hit.all()
            assert len({*found.logits.ravel().tolist()}) == 1  # all of one write
            seen = int(found.logits[0, 0])
    writer.kill()
    writer.join()
    assert seen >= 15
    reader = TeacherStore(tmp_path)
    reader.write(*draw(5, 0))  # the dead writer's lock went with it


def test_forgetting_removes_what_is_old(tmp_path):
    store = create_store(tmp_path, DESCRIPTION)
    keys = np.arange(4, dtype=np.uint64)
    for at in (10, 20):
        store.write(keys, np.full(4, at), np.ones((4, 3)), np.ones((4, 2)))
    other = TeacherStore(tmp_path)
    assert store.forget(20) == 1
    assert not store.read(keys, np.full(4, 15), 100).hit.any()
    assert store.read(keys, np.full(4, 25), 100).hit.all()
    assert other.read(keys, np.full(4, 15), 100).hit.all()  # it holds what it opened
    other.refresh()
    assert not other.read(keys, np.full(4, 15), 100).hit.any()


def test_a_forgotten_segments_name_is_not_given_again(tmp_path):
    keys = np.arange(2, dtype=np.uint64)
    store = create_store(tmp_path, DESCRIPTION)
    store.write(keys, np.full(2, 10), np.ones((2, 3)), np.ones((2, 2)))
    reader, other = TeacherStore(tmp_path), TeacherStore(tmp_path)
    assert store.forget(20) == 1
    assert other.forget(20) == 0  # it was gone
    store.write(keys, np.full(2, 30), np.full((2, 3), 9.0), np.ones((2, 2)))
    reader.refresh()
    np.testing.assert_array_equal(reader.read(keys, np.full(2, 40), 100).embeddings, 9.0)


def test_refuses_what_it_cannot_hold(tmp_path):
    with pytest.raises(UserError, match=r"No such file.*run_teacher"):
        TeacherStore(tmp_path / "nowhere")
    store = create_store(tmp_path, DESCRIPTION)
    keys, at, embeddings, logits = draw(4, 0)
    with pytest.raises(UserError, match=r"embeddings of shape \(4, 2\), it holds \(4, 3\)"):
        store.write(keys, at, embeddings[:, :2], logits)
    with pytest.raises(UserError, match="logits hold what is not a number"):
        store.write(keys, at, embeddings, np.full((4, 2), np.nan))
    with pytest.raises(UserError, match="float16 ends at 65504"):
        store.write(keys, at, np.full((4, 3), 1e6), logits)
    with pytest.raises(UserError, match="3 times for 4 keys"):
        store.write(keys, at[:3], embeddings, logits)
    with pytest.raises(UserError, match="asked for"):
        create_store(tmp_path, StoreDescription(4, ("click",), ("user",)))
    store.write(keys, at, embeddings, logits)
    next(tmp_path.glob("segment-*/logits.npy")).write_bytes(b"rubbish")
    with pytest.raises(UserError, match="damaged"):
        TeacherStore(tmp_path)
    document = json.loads((tmp_path / "store.json").read_text())
    (tmp_path / "store.json").write_text(json.dumps(document | {"version": 7}))
    with pytest.raises(UserError, match="version 7, this program reads 1"):
        TeacherStore(tmp_path)

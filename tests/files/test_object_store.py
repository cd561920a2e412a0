"""Tests folders of object stores, over a store in memory, one of files, and the servers of Google's and Amazon's."""

from pathlib import Path

import pytest

from tests.object_stores.servers import serve_store
from wukong_jax.errors import UserError
from wukong_jax.files.object_store import ObjectFolder, is_store_url, publish_folder, refuse_store


@pytest.fixture(params=["memory", "file", "gs", "s3"])
def folder(request, tmp_path):
    if request.param == "file":
        yield ObjectFolder(f"file://{tmp_path}/store/runs")
        return
    with serve_store(request.param) as url:
        yield ObjectFolder(f"{url}/runs")


def write_files(folder, **texts):
    for name, text in texts.items():
        (folder / name.replace("__", "/")).parent.mkdir(parents=True, exist_ok=True)
        (folder / name.replace("__", "/")).write_text(text)


def test_objects_are_put_read_listed_copied_and_deleted(folder, tmp_path):
    assert folder.list() == {}
    assert folder.read("a.txt") is None
    folder.write("a.txt", b"one")
    folder.write("a.txt", b"three")
    (folder / "b").write("c [1]%.txt", b"")
    assert folder.list() == {"a.txt": 5, "b/c [1]%.txt": 0}
    assert folder.read("a.txt") == b"three"
    folder.download({"a.txt": tmp_path / "new" / "a", "b/c [1]%.txt": tmp_path / "c"})
    assert (tmp_path / "new" / "a").read_bytes() == b"three"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a"]  # nothing aside is left
    folder.upload({"d/e.txt": tmp_path / "new" / "a"})
    folder.remove(["a.txt", "b/c [1]%.txt"])
    assert folder.list() == {"d/e.txt": 5}


def test_an_object_is_created_once(folder):
    assert folder.create("lock", b"first")
    assert not folder.create("lock", b"second")
    assert folder.read("lock") == b"first"


@pytest.mark.parametrize("kind", ["gs", "s3"])
def test_of_two_creations_at_the_same_time_the_store_refuses_one(kind, monkeypatch):
    with serve_store(kind) as url:
        folder = ObjectFolder(url)
        looks = iter([False, False, True, True])  # both look before either writes
        monkeypatch.setattr(folder._fs, "exists", lambda path: next(looks))
        assert folder.create("lock", b"first")
        assert not folder.create("lock", b"second")
        assert folder.read("lock") == b"first"


def test_a_published_folder_is_whole_or_has_no_marker(folder, tmp_path, monkeypatch):
    write_files(tmp_path / "one", marker="1", a="a", b__c="c")
    publish_folder(tmp_path / "one", folder, "marker")
    assert set(folder.list()) == {"marker", "a", "b/c"}
    write_files(tmp_path / "two", marker="2", d="d")
    upload, order = ObjectFolder.upload, []

    def watch(self, files):
        order.append((sorted(files), self.read("marker")))
        upload(self, files)

    monkeypatch.setattr(ObjectFolder, "upload", watch)
    publish_folder(tmp_path / "two", folder, "marker")
    assert order == [(["d"], None), (["marker"], None)]
    assert set(folder.list()) == {"marker", "d"}  # what is not of the new version is gone
    assert folder.read("marker") == b"2"


def test_urls_and_paths_are_told_apart():
    assert is_store_url("gs://bucket/runs")
    assert is_store_url("s3://bucket")
    assert not is_store_url("runs/gs")
    assert not is_store_url(Path("/runs"))
    with pytest.raises(UserError, match="lost a slash"):
        is_store_url(Path("gs://bucket/runs"))
    with pytest.raises(UserError, match=r"--schema = 's3://b/x': cannot be on an object store; copy it"):
        refuse_store("--schema", "s3://b/x", "copy it")


def test_what_a_store_cannot_do_is_one_line(tmp_path):
    with pytest.raises(UserError, match="nosuch://bucket: cannot open") as raised:
        ObjectFolder("nosuch://bucket").list()
    assert "\n" not in str(raised.value)
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match="cannot write"):
        ObjectFolder(f"file://{tmp_path}/taken").write("a/b", b"")


def test_a_missing_package_names_the_extra():
    with pytest.raises(UserError, match=r"needs fsspec's package for abfs:// .*pip install 'wukong-jax\[stores\]'"):
        ObjectFolder("abfs://bucket/runs")

"""Tests that an artefact that is damaged, foreign or too old is refused with one line, and runs no code."""

import json
import pickle
import shutil

import jax
import numpy as np
import pytest
from jax import export

from wukong_jax.errors import UserError
from wukong_jax.files.checksum import checksum_file
from wukong_jax.serving import load_scorer
from wukong_jax.serving.artefact import GOLDEN, MANIFEST, PROGRAM, SCHEMA, WEIGHTS


@pytest.fixture
def artefact(shop, tmp_path):
    shutil.copytree(shop / "served", tmp_path / "served")
    return tmp_path / "served"


def change_manifest(folder, **changes):
    mapping = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    mapping |= changes
    (folder / MANIFEST).write_text(json.dumps(mapping), encoding="utf-8")


def accept(folder, *names):
    """Lists changed files in the manifest as they are now, as someone who builds an artefact would."""
    mapping = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    for name in names:
        path = folder / name
        mapping["files"][name] = {"bytes": path.stat().st_size, "digest": checksum_file(path)}
    (folder / MANIFEST).write_text(json.dumps(mapping), encoding="utf-8")


def refuse(folder, match, **arguments):
    with pytest.raises(UserError, match=match) as error:
        load_scorer(folder, (16,), **arguments)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def cut(path, share=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def flip(path, place=-4):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


def test_a_folder_that_is_none(tmp_path):
    refuse(tmp_path, r"manifest\.json: No such file or directory; give a folder that `wukong-jax export` wrote")
    (tmp_path / MANIFEST).write_text("{" * 10, encoding="utf-8")
    refuse(tmp_path, r"manifest\.json: not JSON")
    (tmp_path / MANIFEST).write_text("[" * 100_000, encoding="utf-8")
    refuse(tmp_path, r"manifest\.json: not JSON")
    (tmp_path / MANIFEST).write_bytes(b"\xff\xfe")
    refuse(tmp_path, r"manifest\.json: not JSON")


@pytest.mark.parametrize("found", [2, 0, "1", None, True, {}, 1e9])
def test_another_format(artefact, found):
    change_manifest(artefact, format=found)
    refuse(artefact, r"format = .*this version reads format 1; export the run again")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"tables": "x"}, r"tables = 'x': expected a list"),
        ({"surprise": 1}, "surprise = 1: unknown key"),
        ({"objectives": []}, r"schema\.json: has other objectives than the manifest"),
        ({"weights": ["params/none"]}, r"weights\.npz: has no array 'params/none'"),
        ({"weights": []}, r"model\.stablehlo: does not fit the weights and tables beside it"),
        ({"extras": {"x": 3}}, r"model\.stablehlo: does not fit"),
        ({"readable_until": "soon"}, "readable_until = 'soon': no date"),
        ({"kind": "onnx"}, r"lists no file 'model.onnx'|was exported with --format=onnx"),
        ({"files": {}}, r"lists no file"),
    ],
)
def test_a_manifest_that_does_not_fit(artefact, change, match):
    change_manifest(artefact, **change)
    refuse(artefact, match)


def test_sizes_of_tables_from_elsewhere(artefact):
    mapping = json.loads((artefact / MANIFEST).read_text(encoding="utf-8"))
    for rows in (-1, 0, 10**30, 10**12, 21.5):
        mapping["tables"][0]["rows"] = rows
        (artefact / MANIFEST).write_text(json.dumps(mapping), encoding="utf-8")
        refuse(artefact, r"tables\[0\]\.rows = |0000\.rows\.npy: holds float32")


def test_files_outside_the_folder(artefact):
    mapping = json.loads((artefact / MANIFEST).read_text(encoding="utf-8"))
    mapping["files"]["../../etc/passwd"] = {"bytes": 1, "digest": ""}
    (artefact / MANIFEST).write_text(json.dumps(mapping), encoding="utf-8")
    refuse(artefact, "lists '../../etc/passwd', which is outside the folder")


@pytest.mark.parametrize("name", [PROGRAM, WEIGHTS, SCHEMA, GOLDEN, "vocabulary/item.parquet", "tables/0000.rows.npy"])
def test_missing_cut_and_changed_files(artefact, name):
    path = artefact / name
    content = path.read_bytes()
    path.unlink()
    refuse(artefact, f"{path.name}: No such file or directory; copy the whole folder")
    path.write_bytes(content[: len(content) // 2])
    refuse(artefact, f"{path.name}: has {len(content) // 2} bytes instead of {len(content)}")
    path.write_bytes(content)
    flip(path)
    if name.startswith("tables"):  # a table is read whole only when asked
        refuse(artefact, "0000.rows.npy: is not the file that was exported", check_tables=True)
        load_scorer(artefact, (16,))
    else:
        refuse(artefact, f"{path.name}: is not the file that was exported")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        (PROGRAM, "cannot read this program of JAX"),
        (WEIGHTS, "weights.npz: cannot read"),
        (GOLDEN, "golden.npz: cannot read"),
        (SCHEMA, "schema.json"),
        ("vocabulary/item.parquet", "item.parquet: cannot read"),
        ("tables/0000.rows.npy", "0000.rows.npy: cannot read"),
    ],
)
@pytest.mark.parametrize("content", [b"", b"junk" * 100, None])
def test_files_that_are_something_else(artefact, name, match, content):
    path = artefact / name
    path.write_bytes(path.read_bytes()[:300] if content is None else content)
    accept(artefact, name)
    refuse(artefact, match)


class Harm:
    def __reduce__(self):
        return (print, ("HARM",))


@pytest.mark.parametrize("name", [WEIGHTS, GOLDEN, "tables/0000.rows.npy"])
def test_pickles_are_never_read(artefact, name, capsys):
    path = artefact / name
    harm = np.array([Harm()], dtype=object)
    if name.endswith(".npz"):
        with np.load(path) as stored:
            names = stored.files
        np.savez(path, **dict.fromkeys(names, harm))
    else:
        np.save(path, harm)
    accept(artefact, name)
    refuse(artefact, "cannot read")
    path.write_bytes(pickle.dumps(Harm()))
    accept(artefact, name)
    refuse(artefact, "cannot read")
    assert "HARM" not in capsys.readouterr().out


@pytest.mark.parametrize("name", [WEIGHTS, GOLDEN])
def test_compressed_arrays_are_not_unpacked(artefact, name):
    np.savez_compressed(artefact / name, **{"params/x": np.zeros(10**6, np.float32)})
    accept(artefact, name)
    refuse(artefact, r"cannot read \(ValueError: is compressed\)")


def test_a_foreign_call_is_not_run(artefact):
    def call(x):
        return jax.ffi.ffi_call("some_library_call", jax.ShapeDtypeStruct(x.shape, x.dtype))(x)

    allowed = [export.DisabledSafetyCheck.custom_call("some_library_call")]
    shape = jax.ShapeDtypeStruct((2, 2), np.float32)
    content = export.export(jax.jit(call), platforms=["cpu"], disabled_checks=allowed)(shape).serialize()
    (artefact / PROGRAM).write_bytes(content)
    accept(artefact, PROGRAM)
    refuse(artefact, r"model\.stablehlo: calls 'some_library_call', which is no arithmetic; do not run it")


def test_another_program_of_the_same_kind(artefact):
    shape = jax.ShapeDtypeStruct((2, 2), np.float32)
    (artefact / PROGRAM).write_bytes(export.export(jax.jit(lambda x: x))(shape).serialize())
    accept(artefact, PROGRAM)
    refuse(artefact, "does not fit the weights and tables beside it|was exported for")


def test_weights_of_another_run(artefact):
    with np.load(artefact / WEIGHTS) as stored:
        arrays = {name: 1.5 * stored[name] for name in stored.files}
    np.savez(artefact / WEIGHTS, **arrays)
    accept(artefact, WEIGHTS)
    refuse(artefact, r"golden\.npz: logits differ by .* from those at the export, more than 0\.001")


def test_a_table_of_another_run(artefact):
    rows = np.load(artefact / "tables/0000.rows.npy")
    np.save(artefact / "tables/0000.rows.npy", rows[::-1] * 3)
    refuse(artefact, r"golden\.npz: logits differ by")
    np.save(artefact / "tables/0000.rows.npy", np.asfortranarray(rows))
    refuse(artefact, r"0000\.rows\.npy: holds float32|logits differ")


def test_golden_rows_that_are_not_numbers(artefact):
    with np.load(artefact / GOLDEN) as stored:
        arrays = {name: stored[name] for name in stored.files}
    np.savez(artefact / GOLDEN, **arrays | {"logits": arrays["logits"] * np.nan})
    accept(artefact, GOLDEN)
    refuse(artefact, r"golden\.npz: logits differ by nan")


def test_the_schema_of_other_columns(artefact):
    mapping = json.loads((artefact / SCHEMA).read_text(encoding="utf-8"))
    mapping["dense"] = mapping["dense"][:1]
    (artefact / SCHEMA).write_text(json.dumps(mapping), encoding="utf-8")
    accept(artefact, SCHEMA)
    refuse(artefact, r"model\.stablehlo: has other columns than schema\.json")


def test_an_artefact_past_its_date(artefact):
    change_manifest(artefact, readable_until="2020-01-01", versions={"jax": "0.4.30"})
    refuse(
        artefact,
        r"was readable by later versions of JAX until 2020-01-01, .*; export the run again, or install jax==0\.4\.30",
    )
    change_manifest(artefact, versions={"jax": jax.__version__})
    load_scorer(artefact, (16,))  # the JAX that wrote it reads it for ever


def test_another_platform(artefact, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "metal")
    refuse(artefact, r"was exported for cpu, cuda, tpu, this process uses metal")


@pytest.mark.parametrize("buckets", [(), (0,), (-1,), (2**40,), ("a",)])
def test_wrong_buckets(artefact, buckets):
    with pytest.raises(UserError, match=r"buckets = .*: give batch sizes from 1 to"):
        load_scorer(artefact, buckets)


def test_export_replaces_nothing_else(shop, tmp_path):
    from wukong_jax.serving.export import check_output

    (tmp_path / "mine").mkdir()
    check_output(tmp_path / "mine")
    (tmp_path / "mine" / "thesis.txt").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="exists, and is no artefact"):
        check_output(tmp_path / "mine")
    check_output(shop / "served")
    with pytest.raises(UserError, match="exists, and is no artefact"):
        check_output(tmp_path / "mine" / "thesis.txt")

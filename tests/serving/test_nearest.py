"""Tests the nearest rows of an artefact's tables against a slow twin."""

import dataclasses
import sys

import numpy as np
import polars as pl
import pytest

from tests.cli.command import run_command
from tests.serving.conftest import open_on_one_device
from wukong_jax.errors import UserError
from wukong_jax.schema import CategoricalColumn, LabelColumn, Schema, Source, schema_to_json
from wukong_jax.serving import nearest
from wukong_jax.serving.artefact import TABLES, read_manifest, write_manifest
from wukong_jax.serving.export import export_run
from wukong_jax.serving.nearest import TableVectors, open_vectors, search_exact
from wukong_jax.serving.table_files import write_table


def silent(text):
    del text


def list_slowly(vectors, query, similarity):
    """Returns all places, nearest first, and their similarities; in float64, one pair of vectors at a time."""
    found = []
    for vector in vectors.astype(np.float64):
        value = sum(a * b for a, b in zip(vector, query.astype(np.float64), strict=True))
        if similarity == "cosine":
            lengths = np.sqrt(sum(vector**2)) * np.sqrt(sum(query.astype(np.float64) ** 2))
            value = value / lengths if lengths else 0.0
        found.append(value)
    return sorted(range(len(found)), key=lambda place: -found[place]), np.array(found)


def draw_vectors(rows=300, width=5):
    random = np.random.default_rng(0)
    table = random.normal(size=(rows + 1, width)).astype(np.float32) * random.gamma(1, 2, (rows + 1, 1))
    return TableVectors("item", pl.Series([f"i{place}" for place in range(rows)]), (table.astype(np.float32),))


@pytest.mark.parametrize("similarity", ["cosine", "inner_product"])
@pytest.mark.parametrize("chunk", [7, 300, 1000])
def test_the_exact_search_is_the_slow_twins(similarity, chunk, monkeypatch):
    monkeypatch.setattr(nearest, "_CHUNK_ROWS", chunk)
    vectors = draw_vectors()
    queries = vectors.gather([0, 17, 299])
    places, found = search_exact(vectors, queries, 12, similarity)
    for row, query in enumerate(queries):
        order, values = list_slowly(vectors.arrays[0][1:], query, similarity)
        assert places[row].tolist() == order[:12]
        np.testing.assert_allclose(found[row], values[order[:12]], rtol=1e-5, atol=1e-6)
    assert search_exact(vectors, queries, 1000, similarity)[0].shape == (3, 300)
    assert search_exact(vectors, queries[:0], 2, similarity)[0].shape == (0, 2)


def test_equal_vectors_are_in_the_order_of_their_rows_and_zeros_are_like_nothing(monkeypatch):
    monkeypatch.setattr(nearest, "_CHUNK_ROWS", 2)
    rows = np.array([[9, 9], [1, 0], [0, 0], [2, 0], [1, 0], [0, 3], [-1, 0]], np.float32)
    vectors = TableVectors("item", pl.Series(list("abcdef")), (rows,))
    places, found = search_exact(vectors, rows[1:3], 6, "cosine")
    assert places.tolist() == [[0, 2, 3, 1, 4, 5], [0, 1, 2, 3, 4, 5]]
    assert found.tolist() == [[1, 1, 1, 0, 0, -1], [0] * 6]
    assert search_exact(vectors, rows[1:2], 3, "cosine")[0].tolist() == [[0, 2, 3]]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_an_artefacts_tables_are_searched_as_its_program_reads_them(shop, dtype, tmp_path, capsys):
    opened = open_on_one_device(shop / "run")
    export_run(opened, tmp_path / "served", tables=dtype, platforms=["cpu"], say=silent)
    trained = np.asarray(opened.run.exchange.export_tables(opened.state.tables)["item"]["rows"], np.float32)
    vectors = open_vectors(tmp_path / "served", "item")
    rows = vectors.read(0, 1000)
    largest = np.abs(trained[1:]).max(axis=1, keepdims=True)
    assert rows.dtype == np.float32
    assert (np.abs(rows - trained[1:]) <= {"float32": 0, "bfloat16": 2**-8, "int8": 1 / 253}[dtype] * largest).all()
    np.testing.assert_array_equal(vectors.gather([3, 0]), rows[[3, 0]])
    values = pl.read_parquet(opened.data.vocabulary / "item.parquet")["value"].to_list()
    order, found = list_slowly(rows, rows[values.index("i7")], "cosine")
    run_command("nearest", f"--artefact={tmp_path / 'served'}", "--table=item", "--value=i7", "--k=4")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [value for _, value in lines] == [values[place] for place in order[1:5]]
    np.testing.assert_allclose([float(cosine) for cosine, _ in lines], found[order[1:5]], atol=6e-5)
    run_command(
        "nearest", f"--artefact={tmp_path / 'served'}", "--table=item", f"--output={tmp_path / 'items.parquet'}"
    )
    assert "wrote" in capsys.readouterr().out
    written = pl.read_parquet(tmp_path / "items.parquet")
    assert written["value"].to_list() == values
    np.testing.assert_array_equal(written["vector"].to_numpy(), rows)


def test_mistakes_are_told_in_one_line(shop, tmp_path):
    served = f"--artefact={shop / 'served'}"

    def refuse(message, *flags):
        with pytest.raises(UserError, match=message) as caught:
            run_command("nearest", *flags)
        assert "\n" not in str(caught.value)

    refuse(
        "'user': is hashed, and a row stands for many values; give one of: item", served, "--table=user", "--value=1"
    )
    refuse("'visited': reads the table of 'item'; give that one", served, "--table=visited", "--value=i1")
    refuse("'price': the artefact has no such table; give one of: item", served, "--table=price", "--value=i1")
    refuse("'zz': not among the 20 values of 'item'", served, "--table=item", "--value=zz")
    refuse("--value: is missing; give a value", served, "--table=item")
    refuse("--k = 3: has no effect without --value or --index", served, "--table=item", "--output=x.parquet", "--k=3")
    refuse("No such file or directory", f"--artefact={tmp_path}", "--table=item", "--value=i1")
    (tmp_path / "items.parquet").mkdir()
    refuse("items.parquet: cannot write", served, "--table=item", f"--output={tmp_path / 'items.parquet'}")


def write_artefact(shop, folder, column, rows):
    """Writes what a search reads of an artefact: manifest, schema and a table of rows 1, 2, ..."""
    schema = Schema("numbers", Source("csv"), (LabelColumn("click"),), categorical=(column,))
    folder.mkdir()
    (folder / "schema.json").write_text(schema_to_json(schema), encoding="utf-8")
    for name in ("model.stablehlo", "weights.npz", "golden.npz"):
        (folder / name).write_bytes(b"")
    table = write_table(folder, 0, column.name, np.arange(rows, dtype=np.float32)[:, None], "float32")
    write_manifest(folder, dataclasses.replace(read_manifest(shop / "served"), tables=(table,)))


def test_integers_of_an_identity_column_are_values(shop, tmp_path, capsys):
    write_artefact(shop, tmp_path / "served", CategoricalColumn("item", encoding="identity", rows=11), 11)
    flags = (f"--artefact={tmp_path / 'served'}", "--table=item", "--value=4.0", "--similarity=inner_product", "--k=3")
    run_command("nearest", *flags)
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["50.0000", "9"],
        ["45.0000", "8"],
        ["40.0000", "7"],
    ]
    (tmp_path / "served" / TABLES / "0000.rows.npy").write_bytes(b"short")
    with pytest.raises(UserError, match=r"0000\.rows\.npy: has 5 bytes instead of"):
        run_command("nearest", *flags)


def test_an_index_finds_almost_all_and_its_recall_is_counted(shop, capsys):
    pytest.importorskip("faiss", reason="needs the extra `nearest`")
    vectors = draw_vectors(3000, 16)
    for similarity in ("cosine", "inner_product"):
        index = nearest.build_index(vectors, similarity)
        recall, queries = nearest.measure_recall(vectors, index, 10, similarity)
        assert queries == 100
        assert recall > 0.95
        rows = vectors.gather(range(50))
        places, found = nearest.search_index(index, rows, 10, similarity)
        wanted, values = search_exact(vectors, rows, 10, similarity)
        assert (places == wanted).mean() > 0.95
        np.testing.assert_allclose(found[places == wanted], values[places == wanted], rtol=1e-5, atol=1e-6)
        index.search = lambda rows, count: (np.zeros((len(rows), count)), np.full((len(rows), count), -1))
        assert nearest.measure_recall(vectors, index, 10, similarity)[0] == 0
    command = (f"--artefact={shop / 'served'}", "--table=item", "--value=i7", "--k=19")
    run_command("nearest", *command)
    exact = capsys.readouterr().out
    run_command("nearest", *command, "--index")
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("index of 20 embeddings built in")
    assert first.endswith("finds 100.0% of the exact 19 nearest of 20 values")
    assert rest == exact.splitlines()


def test_without_the_extra_an_index_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"--index: faiss is not installed; install wukong-jax\[nearest\]"):
        nearest.build_index(draw_vectors(), "cosine")

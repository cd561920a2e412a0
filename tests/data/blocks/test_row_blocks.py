import json
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from wukong_jax.data.blocks.batch import COLUMN_DTYPES, Columns
from wukong_jax.data.blocks.row_blocks import BlockWriter, decode_block, encode_block, open_row_blocks
from wukong_jax.errors import UserError
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source, schema_to_json

SCHEMA = Schema(
    name="small",
    source=Source("csv"),
    labels=(LabelColumn("click"), LabelColumn("buy")),
    dense=(DenseColumn("age"),),
    categorical=(
        CategoricalColumn("site", "identity", rows=100),
        CategoricalColumn("tags", "identity", rows=100, separator="|", max_length=3),
    ),
)


def draw_columns(rows: int, schema: Schema = SCHEMA, seed: int = 0) -> Columns:
    rng = np.random.default_rng(seed)
    return {
        name: rng.integers(-1, 100, (rows, *shape)).astype(COLUMN_DTYPES[name])
        for name, shape in schema.column_shapes().items()
    }


def write(
    directory: Path, columns: Columns, schema: Schema = SCHEMA, pieces: int = 77, split: str = "train", **options: int
) -> None:
    directory.mkdir(exist_ok=True)
    (directory / "schema.json").write_text(schema_to_json(schema))
    with BlockWriter(directory, split, schema, 100, **options) as writer:
        for start in range(0, len(columns["weight"]), pieces):
            writer.append({name: array[start : start + pieces] for name, array in columns.items()})


@pytest.mark.parametrize("rows", [1, 99, 100, 1003])
@pytest.mark.parametrize("pieces", [1, 77, 5000])
def test_rows_come_back_in_order_across_blocks_and_files(tmp_path: Path, rows: int, pieces: int) -> None:
    columns = draw_columns(rows)
    write(tmp_path, columns, pieces=pieces, rows_per_file=250)
    blocks = open_row_blocks(tmp_path, "train")
    assert blocks.rows == rows
    assert blocks.num_blocks == -(-rows // 100)
    assert len(list((tmp_path / "blocks").glob("train-*.array_record"))) == -(-rows // 200)
    read = [blocks.read(i) for i in range(blocks.num_blocks)]
    assert [len(block["weight"]) for block in read] == [blocks.block_rows(i) for i in range(blocks.num_blocks)]
    for name, array in columns.items():
        joined = np.concatenate([block[name] for block in read])
        assert joined.dtype == COLUMN_DTYPES[name]
        np.testing.assert_array_equal(joined, array)


def test_both_compressions_give_the_same_rows(tmp_path: Path) -> None:
    columns = draw_columns(10_000)  # files grow in steps of 64 KiB
    sizes = {}
    for compression in ("zstd", "none"):
        write(tmp_path / compression, columns, compression=compression)
        block = open_row_blocks(tmp_path / compression, "train").read(2)
        np.testing.assert_array_equal(block["ids"], columns["ids"][200:300])
        sizes[compression] = (tmp_path / compression / "blocks" / "train-00000.array_record").stat().st_size
    assert sizes["zstd"] < sizes["none"]


def test_an_empty_split_has_no_rows_and_opens(tmp_path: Path) -> None:
    write(tmp_path, draw_columns(0))
    blocks = open_row_blocks(tmp_path, "train")
    assert (blocks.rows, blocks.num_blocks) == (0, 0)
    with pytest.raises(IndexError):
        blocks.read(0)


def test_record_layout_is_the_documented_one() -> None:
    columns = {"ids": np.arange(6, dtype=np.int32).reshape(2, 3), "weight": np.ones(2, np.float32)}
    record = encode_block(columns)
    magic, version, length = struct.unpack_from("<4sII", record)
    header = json.loads(record[12 : 12 + length])
    assert (magic, version) == (b"WJRB", 1)
    assert header == {"rows": 2, "arrays": [["ids", "<i4", [2, 3]], ["weight", "<f4", [2]]]}
    first = -(-(12 + length) // 64) * 64
    assert record[first : first + 24] == columns["ids"].tobytes()
    second = -(-(first + 24) // 64) * 64
    assert record[second:] == columns["weight"].tobytes()
    for name, array in decode_block(record).items():
        np.testing.assert_array_equal(array, columns[name])


def test_ids_in_byte_planes_come_back_and_the_header_says_so() -> None:
    ids = np.array([[-1, 0, 1], [255, 256, 65_536], [2**24, 2**31 - 1, -(2**31)]], np.int32)
    columns = {"ids": ids, "weight": np.ones(3, np.float32)}
    record = encode_block(columns, in_byte_planes=("ids",))
    (length,) = struct.unpack_from("<I", record, 8)
    header = json.loads(record[12 : 12 + length])
    assert header["arrays"] == [["ids", "<i4", [3, 3], "byte_planes"], ["weight", "<f4", [3]]]
    first = -(-(12 + length) // 64) * 64
    twin = bytes(ids.tobytes()[4 * i + plane] for plane in range(4) for i in range(9))
    assert record[first : first + 36] == twin
    for name, array in decode_block(record).items():
        np.testing.assert_array_equal(array, columns[name], strict=True)
        assert not array.flags.writeable


def test_records_of_other_kind_version_or_length_are_refused() -> None:
    record = encode_block({"weight": np.ones(2, np.float32)})
    for bad in (b"", b"WJ", b"other" + record[5:], record[:-1], record + b"\0", record[:4] + b"\2" + record[5:]):
        with pytest.raises(ValueError, match=r"row block|buffer|larger than its record"):
            decode_block(bad)


def test_many_threads_read_the_same_rows(tmp_path: Path) -> None:
    columns = draw_columns(2000)
    write(tmp_path, columns, rows_per_file=500)
    blocks = open_row_blocks(tmp_path, "train")
    order = np.random.default_rng(1).integers(0, 20, 400)
    with ThreadPoolExecutor(8) as pool:
        for index, block in zip(order, pool.map(blocks.read, order), strict=True):
            np.testing.assert_array_equal(block["group"], columns["group"][index * 100 : index * 100 + 100])


def test_an_interrupted_writer_leaves_no_split(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(schema_to_json(SCHEMA))

    def stop_half_way() -> None:
        with BlockWriter(tmp_path, "train", SCHEMA, 100) as writer:
            writer.append(draw_columns(250))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_half_way()
    with pytest.raises(UserError, match=r"split 'train'"):
        open_row_blocks(tmp_path, "train")


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[:-1],
        lambda raw: raw[: len(raw) // 2],
        lambda raw: b"",
        lambda raw: b"not an array record",
        lambda raw: bytes(len(raw)),
        lambda raw: raw[:80] + bytes(50) + raw[130:],
    ],
    ids=["one byte short", "half", "empty", "foreign", "zeros", "overwritten"],
)
def test_damaged_files_are_named_in_one_line(tmp_path: Path, damage) -> None:
    write(tmp_path, draw_columns(1000))
    file = tmp_path / "blocks" / "train-00000.array_record"
    file.write_bytes(damage(file.read_bytes()))

    def read_all() -> None:
        blocks = open_row_blocks(tmp_path, "train")
        for i in range(blocks.num_blocks):
            blocks.read(i)

    with pytest.raises(UserError, match=r"train-00000.array_record.*(damaged|cannot hold)") as error:
        read_all()
    assert "\n" not in str(error.value)


def test_a_file_of_other_rows_is_refused(tmp_path: Path) -> None:
    """Files of two preparations mixed up: sound each, but not what the index says."""
    write(tmp_path, draw_columns(1000))
    write(tmp_path / "other", draw_columns(2000))
    name = "blocks/train-00000.array_record"
    (tmp_path / name).write_bytes((tmp_path / "other" / name).read_bytes())
    with pytest.raises(UserError, match=r"train-00000.array_record.*20 blocks, the index says 10"):
        open_row_blocks(tmp_path, "train").read(0)


def test_missing_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        open_row_blocks(tmp_path / "nowhere", "train")
    write(tmp_path, draw_columns(10))
    with pytest.raises(UserError, match=r"split 'test'.*no test.json"):
        open_row_blocks(tmp_path, "test")
    with pytest.raises(UserError, match="not one of train, validation, test"):
        open_row_blocks(tmp_path, "dev")
    blocks = open_row_blocks(tmp_path, "train")
    (tmp_path / "blocks" / "train-00000.array_record").unlink()
    with pytest.raises(UserError, match=r"train-00000.*no such file"):
        blocks.read(0)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (Schema("s", SCHEMA.source, SCHEMA.labels[:1], dense=SCHEMA.dense, categorical=SCHEMA.categorical), "labels"),
        (Schema("s", SCHEMA.source, SCHEMA.labels, categorical=SCHEMA.categorical), "dense"),
        (Schema("s", SCHEMA.source, SCHEMA.labels, dense=SCHEMA.dense, categorical=SCHEMA.categorical[::-1]), "ids"),
    ],
)
def test_blocks_of_another_schema_are_refused(tmp_path: Path, other: Schema, named: str) -> None:
    write(tmp_path, draw_columns(10))
    (tmp_path / "schema.json").write_text(schema_to_json(other))
    with pytest.raises(UserError, match=rf"train.json: {named} columns"):
        open_row_blocks(tmp_path, "train")


def test_a_block_of_other_width_than_its_index_is_refused(tmp_path: Path) -> None:
    narrow = Schema("s", SCHEMA.source, SCHEMA.labels, categorical=SCHEMA.categorical[:1])
    write(tmp_path, draw_columns(10))
    write(tmp_path / "narrow", draw_columns(10, narrow), narrow)
    name = "blocks/train-00000.array_record"
    (tmp_path / name).write_bytes((tmp_path / "narrow" / name).read_bytes())
    with pytest.raises(UserError, match=r"array 'dense'"):
        open_row_blocks(tmp_path, "train").read(0)


@pytest.mark.parametrize("text", ["", "[]", '{"rows": 1}', '{"rows": "many"}'])
def test_a_broken_index_is_named(tmp_path: Path, text: str) -> None:
    write(tmp_path, draw_columns(10))
    (tmp_path / "blocks" / "train.json").write_text(text)
    with pytest.raises(UserError, match=r"train\.json"):
        open_row_blocks(tmp_path, "train")


def test_wrong_arrays_are_a_programming_error(tmp_path: Path) -> None:
    columns = dict(draw_columns(5))
    with BlockWriter(tmp_path, "train", SCHEMA) as writer:
        for name, array in (("ids", columns["ids"][:, :2]), ("ids", columns["ids"].astype(np.int64))):
            with pytest.raises(ValueError, match="ids"):
                writer.append({**columns, name: array})
        with pytest.raises(ValueError, match="expected"):
            writer.append({"ids": columns["ids"]})


_FILL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from wukong_jax.data.blocks.batch import COLUMN_DTYPES
from wukong_jax.data.blocks.row_blocks import BlockWriter
from wukong_jax.errors import UserError
from wukong_jax.schema import DenseColumn
from wukong_jax.schema import LabelColumn
from wukong_jax.schema import Schema
from wukong_jax.schema import Source

schema = Schema("s", Source("csv"), (LabelColumn("y"),), dense=(DenseColumn("x"),))
shapes = schema.column_shapes()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    with BlockWriter(Path(sys.argv[1]), "train", schema, compression="none") as writer:
        for _ in range(20):
            writer.append({name: np.zeros((8192, *shape), COLUMN_DTYPES[name]) for name, shape in shapes.items()})
except UserError as error:
    print(error)
"""


def test_a_file_that_cannot_grow_is_a_user_error_and_no_split(tmp_path: Path) -> None:
    """A limit on the file's size stands for a full disk: the same write fails in the same place."""
    result = subprocess.run([sys.executable, "-c", _FILL_DISK, tmp_path], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "train-00000.array_record: cannot write" in result.stdout
    assert not (tmp_path / "blocks" / "train.json").exists()


def test_a_folder_that_cannot_be_made_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "blocks").write_text("a file in the way")
    with pytest.raises(UserError, match=r"blocks: cannot write"):
        BlockWriter(tmp_path, "train", SCHEMA)

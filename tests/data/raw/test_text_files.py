"""Tests that files that are not UTF-8 text are told apart by their content and refused in one line."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import pytest

from wukong_jax.data.raw.bad_rows import BadRows
from wukong_jax.data.raw.raw_files import read_raw_rows
from wukong_jax.errors import UserError
from wukong_jax.schema import Source

TEXT = b"click,d\n1,2\n0,3\n"
ZSTD = bytes.fromhex("28b52ffd200861000061620a") + b"c"
SOURCES = {True: Source("csv"), False: Source("csv", header=False, columns=("click", "d"))}


def read(path, source, **options):
    return [
        row for rows in read_raw_rows(path, source, ["click", "d"], BadRows(), **options) for row in rows.frame.rows()
    ]


def archive(kind):
    data = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(data, "w") as file:
            file.writestr("rows.csv", TEXT)
    else:
        with tarfile.open(fileobj=data, mode="w") as file:
            info = tarfile.TarInfo("rows.csv")
            info.size = len(TEXT)
            file.addfile(info, io.BytesIO(TEXT))
    return data.getvalue()


NO_TEXT = {
    "bz2": (bz2.compress(TEXT), "a bz2 file.*decompress it first"),
    "empty bz2": (bz2.compress(b""), "a bz2 file"),
    "zstd": (ZSTD, "a zstd file.*decompress it first"),
    "xz": (lzma.compress(TEXT), "an xz file.*decompress it first"),
    "lzma": (lzma.compress(TEXT, lzma.FORMAT_ALONE), "an lzma file"),
    "zip": (archive("zip"), "a zip file.*extract it first"),
    "tar": (archive("tar"), "a tar archive.*extract it first"),
    "tar.gz": (gzip.compress(archive("tar")), "a tar archive.*extract it first"),
    "bz2.gz": (gzip.compress(bz2.compress(TEXT)), "a bz2 file"),
    "gz.gz": (gzip.compress(gzip.compress(TEXT)), "compressed by gzip twice"),
    "parquet": (b"PAR1" + bytes(20), 'a Parquet file.*source.format = "parquet"'),
    "UTF-16": (TEXT.decode().encode("utf-16"), "UTF-16 text.*convert it to UTF-8"),
    "UTF-16 BE": ("\ufeff".encode("utf-16-be") + TEXT.decode().encode("utf-16-be"), "UTF-16 text"),
    "UTF-32": (TEXT.decode().encode("utf-32"), "UTF-32 text"),
    "UTF-16 without mark": (TEXT.decode().encode("utf-16-le"), "NUL byte"),
    "Latin-1": (b"\xe9,d\n" * 3, "not UTF-8 text"),
    "CR": (TEXT.replace(b"\n", b"\r"), "line ends are carriage returns alone; convert"),
}


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv.zst", "rows"])
@pytest.mark.parametrize("kind", NO_TEXT)
def test_what_is_no_utf8_text_is_named_in_one_printable_line(tmp_path, name, kind, header):
    data, message = NO_TEXT[kind]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=rf"{name}.*{message}") as error:
        read(tmp_path / name, SOURCES[header])
    assert str(error.value).isprintable()


@pytest.mark.parametrize("text", [b"BZh,d\n1,2\n", b"PK,d\n1,2\n"])
def test_a_header_that_resembles_other_formats_is_read(tmp_path, text):
    (tmp_path / "rows.csv").write_bytes(text)
    names = text.decode().split("\n")[0].split(",")
    assert len(list(read_raw_rows(tmp_path / "rows.csv", Source("csv"), names, BadRows()))) == 1


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_a_utf8_byte_order_mark_is_removed(tmp_path, header, packed):
    text = b"\xef\xbb\xbf" + (TEXT if header else b"1,2\n0,3\n")
    (tmp_path / "rows.csv").write_bytes(gzip.compress(text) if packed else text)
    assert read(tmp_path / "rows.csv", SOURCES[header]) == [("1", "2"), ("0", "3")]


def test_gzip_files_joined_are_read_whole(tmp_path):
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(b"click,d\n1,2") + gzip.compress(b"\n0,3\n"))
    assert read(tmp_path / "rows.csv.gz", SOURCES[True]) == [("1", "2"), ("0", "3")]


@pytest.mark.parametrize("ends", ["\r\n", "\n"])
def test_line_ends_that_differ_within_a_file_are_read(tmp_path, ends):
    (tmp_path / "rows.csv").write_bytes(f"click,d{ends}1,2\n0,3\r\n5,6\r".encode())
    assert read(tmp_path / "rows.csv", SOURCES[True]) == [("1", "2"), ("0", "3"), ("5", "6")]


@pytest.mark.parametrize("source", [*SOURCES.values(), Source("parquet")])
def test_a_folder_is_no_file(tmp_path, source):
    (tmp_path / "rows.parquet").mkdir()
    with pytest.raises(UserError, match=r"rows\.parquet: a folder; name a file"):
        read(tmp_path / "rows.parquet", source)


@pytest.mark.parametrize("text", [b"", b"click,d", b"click,d\n", b"\xef\xbb\xbf", b"\r\n\n", b"\n\nclick,d\n\n"])
def test_a_file_without_rows_is_allowed_where_asked(tmp_path, text):
    (tmp_path / "rows.csv").write_bytes(text)
    assert read(tmp_path / "rows.csv", SOURCES[True], allow_empty=True) == []
    with pytest.raises(UserError, match=r"rows\.csv: empty file: no rows"):
        read(tmp_path / "rows.csv", SOURCES[True])


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("wukong_jax.data.raw.text_files.MAX_LINE_BYTES", 100)
    (tmp_path / "rows.csv").write_bytes(b"1,2\n" + b"x" * 300 + b",2\n")
    with pytest.raises(UserError, match=r"rows\.csv: a line is longer than"):
        read(tmp_path / "rows.csv", SOURCES[False], chunk_bytes=1)

"""Opens text files, plain or .gz, refuses what is not UTF-8 text, and reads them in chunks of whole lines."""

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from wukong_jax.errors import UserError

MAX_LINE_BYTES = 64 << 20

_HEAD_BYTES = 1 << 16
_UTF8_MARK = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"
_DECOMPRESS = "decompress it first"
_AS_UTF8 = "convert it to UTF-8"
_KINDS = (
    (rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", "a bz2 file", _DECOMPRESS),
    (rb"[\x28\x22-\x27]\xb5\x2f\xfd", "a zstd file", _DECOMPRESS),
    (rb"[\x50-\x5f]\x2a\x4d\x18", "a zstd or lz4 file", _DECOMPRESS),
    (rb"\xfd7zXZ\0", "an xz file", _DECOMPRESS),
    (rb"\x5d\0\0.[\0\1]", "an lzma file", _DECOMPRESS),
    (rb"PK(\x03\x04|\x05\x06|\x07\x08)", "a zip file (.zip, .xlsx)", "extract it first, or save it as CSV"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z file", _DECOMPRESS),
    (rb"Rar!\x1a\x07", "a rar file", _DECOMPRESS),
    (rb"\x04\x22\x4d\x18", "an lz4 file", _DECOMPRESS),
    (rb"\xff\x06\0\0sNaPpY", "a snappy file", _DECOMPRESS),
    (rb"\x1f[\x9d\xa0]", "a compress (.Z) file", _DECOMPRESS),
    (rb"\x1f\x8b", "compressed by gzip twice", "decompress it once"),
    (rb".{257}ustar", "a tar archive", "extract it first"),
    (rb"PAR1", "a Parquet file", 'set source.format = "parquet"'),
    (rb"ARROW1|\xff{4}.{3}\0\x10\0\0\0", "an Arrow file", "save it as Parquet or CSV"),
    (rb"ORC|Obj\x01|SQLite format 3\0|\x89HDF|\xd0\xcf\x11\xe0", "a binary file", "save it as Parquet or CSV"),
    (rb"\xff\xfe\0\0|\0\0\xfe\xff", "UTF-32 text", _AS_UTF8),
    (rb"\xff\xfe|\xfe\xff", "UTF-16 text", _AS_UTF8),
)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Converts errors of reading a file to one line.

    Raises:
      UserError: the file cannot be read.
    """
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: truncated or damaged .gz ({error}); fetch the file again") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder; name a file") from None
    except OSError as error:
        if error.filename is not None and Path(error.filename) != path:
            raise
        raise UserError(f"{path}: cannot read ({error.strerror or error})") from None


@contextmanager
def open_text(path: Path) -> Iterator[BinaryIO]:
    """Opens a text file after its UTF-8 byte order mark, if it has one.

    Args:
      path: a file, plain or compressed by gzip, which is recognised by its first bytes.

    Raises:
      UserError: the file cannot be read, or its first bytes say that it is not UTF-8 text.
    """
    with reading(path), path.open("rb") as raw:
        packed = raw.read(2) == _GZIP
        raw.seek(0)
        if path.suffix.lower() == ".gz" and not packed:
            wrong = "not in gzip format" if raw.read(1) else "empty"
            raise UserError(f"{path}: {wrong}; fetch the file again")
        file: BinaryIO = raw
        if packed:
            file = io.BufferedReader(gzip.GzipFile(fileobj=raw), 1 << 20)  # type: ignore[arg-type,assignment]
        head = file.read(_HEAD_BYTES)
        _check_head(path, head)
        file.seek(len(_UTF8_MARK) if head.startswith(_UTF8_MARK) else 0)
        yield file


def _check_head(path: Path, head: bytes) -> None:
    for pattern, kind, fix in _KINDS:
        if re.match(pattern, head, re.DOTALL):
            raise UserError(f"{path}: {kind}, not UTF-8 text or .gz; {fix}")


def check_line_ends(path: Path, file: BinaryIO, *, quoted: bool) -> None:
    """Refuses a file whose line ends are carriage returns alone, as far as its first bytes say.

    Args:
      path: the file, for messages.
      file: the file, which stays at its position.
      quoted: whether values may be quoted, so that a carriage return may be in one.

    Raises:
      UserError: there is a carriage return and no LF.
    """
    start = file.tell()
    head = file.read(_HEAD_BYTES)
    file.seek(start)
    at = head.find(b"\r")
    cut = at == _HEAD_BYTES - 1  # its LF may follow
    if at >= 0 and b"\n" not in head and not cut and not (quoted and head.count(b'"', 0, at) % 2):
        raise UserError(f"{path}: line ends are carriage returns alone; convert them to LF (tr '\\r' '\\n')")


class ChunkReader:
    """Reads chunks of whole lines; what the caller could not use yet is read again with more."""

    def __init__(self, file: BinaryIO, path: Path, chunk_bytes: int) -> None:
        """Creates a reader that goes on at the file's position.

        Args:
          file: as `open_text` gives it.
          path: the file, for messages.
          chunk_bytes: bytes to read at once, apart from the rest of the last line.
        """
        self._file, self._path, self._chunk_bytes = file, path, chunk_bytes
        self._in_place = not isinstance(getattr(file, "raw", None), gzip.GzipFile)
        self._unused = b""

    def read(self) -> bytes:
        """Returns the next chunk; it is empty at the end of the file.

        Raises:
          UserError: a line is too long.
        """
        unused, self._unused = self._unused, b""
        size = max(self._chunk_bytes, 2 * len(unused))
        if not self._in_place:
            return unused + self._file.read(size - len(unused)) + self._read_line()
        # Find the end of the line first, so that the chunk is read once and never copied.
        start = self._file.tell() - len(unused)
        self._file.seek(start + size)
        self._read_line()
        stop = self._file.tell()
        self._file.seek(start)
        return self._file.read(stop - start)

    def give_back(self, unused: bytes) -> None:
        """Makes the end of the last chunk the start of the next one, which is at least twice as long."""
        self._unused = unused

    def at_end(self) -> bool:
        """Whether the file ends with the last chunk."""
        return not self._file.peek(1)  # type: ignore[attr-defined]

    def _read_line(self) -> bytes:
        line = self._file.readline(MAX_LINE_BYTES)
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            raise UserError(f"{self._path}: a line is longer than {MAX_LINE_BYTES >> 20} MiB; is it a text file?")
        return line

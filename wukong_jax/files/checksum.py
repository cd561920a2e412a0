"""Computes checksums that recognise changed bytes, cheaply enough for every byte that is written.

A checksum is the CRC-32 of the bytes and the sum of their 64-bit words: 96 bits. It guards against other data under the
same name, not against someone who constructs equal checksums. BLAKE2b would be safe against that, too, but slowed the
writing of row blocks by about a quarter; this one slows it by 4 to 8 %, and preparing raw files by up to 3 % (two busy
CPU cores, Criteo-shaped rows).
"""

import zlib
from pathlib import Path

import numpy as np

_PIECE_BYTES = 1 << 24  # a multiple of the word size


def checksum_bytes(content: bytes) -> str:
    """Returns the checksum of some bytes, 24 hexadecimal digits."""
    return _format(zlib.crc32(content), _sum_words(content))


def checksum_file(path: Path) -> str:
    """Returns the checksum of a file's bytes, which are read in pieces.

    Raises:
      OSError: the file cannot be read.
    """
    crc, total = 0, 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            crc, total = zlib.crc32(piece, crc), total + _sum_words(piece)
    return _format(crc, total)


def _sum_words(content: bytes) -> int:
    whole = len(content) // 8
    words = np.frombuffer(content, "<u8", whole)
    return int(words.sum(dtype=np.uint64)) + int.from_bytes(content[8 * whole :], "little")


def _format(crc: int, total: int) -> str:
    return f"{crc:08x}{total % 2**64:016x}"

"""Tests the checksum against a slow twin, and that it is the same however a file is read."""

import zlib

from hypothesis import given, settings
from hypothesis import strategies as st

from wukong_jax.files import checksum
from wukong_jax.files.checksum import checksum_bytes, checksum_file


def slow_checksum(content: bytes) -> str:
    total = sum(int.from_bytes(content[start : start + 8], "little") for start in range(0, len(content), 8))
    return f"{zlib.crc32(content):08x}{total % 2**64:016x}"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=100))
def test_a_checksum_is_that_of_the_slow_twin(content):
    assert checksum_bytes(content) == slow_checksum(content)


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=1, max_size=60), st.integers(0, 59), st.integers(1, 255))
def test_a_changed_byte_changes_both_parts(content, place, difference):
    place %= len(content)
    changed = bytearray(content)
    changed[place] ^= difference
    before, after = checksum_bytes(content), checksum_bytes(bytes(changed))
    assert before[:8] != after[:8]
    assert before[8:] != after[8:]


def test_a_file_in_pieces_has_the_checksum_of_its_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(checksum, "_PIECE_BYTES", 16)
    for size in (0, 1, 8, 15, 16, 17, 40, 100):
        content = bytes(range(156, 156 + size)) if size <= 100 else b""
        (tmp_path / "file").write_bytes(content)
        assert checksum_file(tmp_path / "file") == slow_checksum(content)

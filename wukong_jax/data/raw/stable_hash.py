"""Computes 64-bit hashes of texts and numbers that do not depend on the platform or library versions.

The mixing function is the finaliser of SplitMix64 (Steele, Lea and Flood 2014). A text is read as little-endian words
of 8 bytes, the last one padded with zeros. Each word is combined with the state by XOR and mixed; the length is mixed
in last. The hash spreads values over table rows; it is not meant to resist an adversary.
"""

import numpy as np
import polars as pl

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_WORD = 8
_PIECE = 1 << 14  # words hashed at once, so that they stay in the processor's cache


def mix64(values: np.ndarray) -> np.ndarray:
    """Mixes 64-bit numbers so that every output bit depends on every input bit.

    Args:
      values: [n] uint64.

    Returns:
      [n] uint64, a permutation of the 64-bit numbers.
    """
    mixed = values + _GOLDEN
    mixed ^= mixed >> np.uint64(30)
    mixed *= _FIRST
    mixed ^= mixed >> np.uint64(27)
    mixed *= _SECOND
    mixed ^= mixed >> np.uint64(31)
    return mixed


def hash_uniform(positions: np.ndarray, seed: int) -> np.ndarray:
    """Computes a number in [0, 1) for each position, which depends only on the position and the seed.

    Args:
      positions: [n] integers.
      seed: chooses one of many sequences.

    Returns:
      [n] float64.
    """
    start = mix64(np.array([seed % 2**64], np.uint64))
    bits = mix64(mix64(positions.astype(np.uint64)) ^ start)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def hash_texts(texts: pl.Series, salt: int) -> np.ndarray:
    """Hashes texts.

    Args:
      texts: [n] String without nulls.
      salt: different salts give independent hashes.

    Returns:
      [n] uint64.
    """
    return hash_joined(texts, texts.str.join("").item() or "", salt)


def hash_joined(texts: pl.Series, joined: str, salt: int) -> np.ndarray:
    """Hashes texts that are joined already, which saves a pass; see `hash_texts`."""
    state = np.full(len(texts), mix64(np.array([salt % 2**64], np.uint64))[0])
    return hash_pieces(joined.encode(), texts.str.len_bytes().to_numpy().astype(np.int64), state)


def hash_pieces(joined: bytes, lengths: np.ndarray, state: np.ndarray) -> np.ndarray:
    """Hashes texts that lie one after another.

    Args:
      joined: the texts as UTF-8.
      lengths: [n] int64, bytes of each text.
      state: [n] uint64, `mix64` of each text's salt; overwritten.

    Returns:
      [n] uint64.
    """
    starts = np.cumsum(lengths) - lengths
    buffer = joined + bytes(_WORD)
    words = np.ndarray(len(buffer) - _WORD + 1, np.dtype("<u8"), buffer, strides=(1,))
    for offset in range(0, int(lengths.max(initial=0)), _WORD):
        rows = slice(None) if lengths.min() >= offset + _WORD else np.flatnonzero(lengths > offset)
        word = words[starts[rows] + offset].astype(np.uint64)
        spare = np.maximum(_WORD - (lengths[rows] - offset), 0).astype(np.uint64) * np.uint64(8)
        word &= np.uint64(2**64 - 1) >> spare
        state[rows] = mix64(state[rows] ^ word)
    return mix64(state ^ lengths.astype(np.uint64))


def hash_words(words: np.ndarray, salt: int) -> np.ndarray:
    """Hashes texts of exactly 8 bytes that are read as little-endian words; see `hash_texts`.

    Args:
      words: [n] uint64.
      salt: different salts give independent hashes.

    Returns:
      [n] uint64.
    """
    state = mix64(np.array([salt % 2**64], np.uint64))
    hashes = np.empty(len(words), np.uint64)
    for start in range(0, len(words), _PIECE):
        piece = words[start : start + _PIECE] ^ state
        hashes[start : start + _PIECE] = mix64(mix64(piece) ^ np.uint64(_WORD))
    return hashes

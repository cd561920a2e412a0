"""Checks a checkpoint: the sizes of its arrays before any is read, and their content by digests after reading.

A checkpoint may come from elsewhere, and its files may be damaged. Tensorstore checks its own structures only: a
flipped bit in the rows of a table would be read as another number.
"""

import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from wukong_jax.embeddings.layout import EmbeddingLayout
from wukong_jax.embeddings.tables import describe_arrays
from wukong_jax.errors import UserError
from wukong_jax.sharding.team import find_team

_PIECE = 8192  # 8-byte words that are summed before the sums are hashed


def compute_digests(arrays: Mapping[str, Any]) -> dict[str, int]:
    """Computes the digest of every array.

    Args:
      arrays: a pytree of arrays by item.

    Returns:
      Digests by the arrays' paths in the tree.
    """
    return {_name(path): _digest(array) for path, array in jax.tree_util.tree_leaves_with_path(dict(arrays))}


def compute_shard_digests(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Computes the digests of arrays that lie on the devices of several processes, which call it together.

    Args:
      arrays: a pytree of arrays by item.

    Returns:
      By the arrays' paths in the tree, the digest of an array that lies whole on every device, or for one that is split
      a list of [starts, stops, digest of that rectangle].
    """
    digests: dict[str, Any] = {}
    split: dict[str, list[Any]] = {}
    for path, array in jax.tree_util.tree_leaves_with_path(dict(arrays)):
        if array.is_fully_replicated:
            digests[_name(path)] = _digest(array)
            continue
        split[_name(path)] = []
        for shard in array.addressable_shards:
            if shard.replica_id == 0:
                bounds = [part.indices(length)[:2] for part, length in zip(shard.index, array.shape, strict=True)]
                starts, stops = zip(*bounds, strict=True)
                split[_name(path)].append([starts, stops, _digest(shard.data)])
    if not split:
        return digests
    for found in find_team().gather("digests", split):
        for name, listed in found.items():
            digests.setdefault(name, []).extend(listed)
    return digests


def check_content(arrays: Mapping[str, Any], digests: Mapping[str, Any] | None) -> None:
    """Compares restored arrays with the digests saved with them.

    Args:
      arrays: a pytree of arrays by item.
      digests: result of `compute_digests` or `compute_shard_digests` when they were saved; None: there are none to
        compare with.

    Raises:
      UserError: an array differs.
    """
    if digests is None:
        return
    for path, array in jax.tree_util.tree_leaves_with_path(dict(arrays)):
        name = _name(path)
        if not _is_as_saved(array, digests.get(name)):
            raise UserError(f"{name} is damaged (its digest differs); use another checkpoint or a copy of the run")


def check_sizes(folder: Path, dense: Any, layout: EmbeddingLayout) -> None:
    """Compares the shapes of the stored arrays with the expected ones, and both with the machine's memory.

    Args:
      folder: folder of one step.
      dense: the dense part, as a pytree of shapes and dtypes.
      layout: layout of the tables.

    Raises:
      UserError: the checkpoint holds other arrays, or larger ones than fit in memory.
    """
    expected = sum(_count_bytes(leaf) for leaf in jax.tree.leaves(dense))
    found = sum(_count_bytes(leaf) for leaf in _read_shapes(folder / "dense"))
    if found != expected:
        raise UserError(
            f"does not fit this run's network (its dense arrays hold {found} bytes, the network {expected})"
        )
    if (folder / "stacks").exists():
        return  # saved by several processes: whoever opens them compares the pieces, and reads only its own rows
    tables = 0
    for stack in layout.stacks:
        for trailing, dtype in describe_arrays(stack).values():
            for rows in stack.table_rows:
                tables += _count_bytes(jax.ShapeDtypeStruct((rows, *trailing), dtype))
    stored = sum(_count_bytes(leaf) for leaf in _read_shapes(folder / "tables")) if layout.stacks else 0
    if stored != tables:
        raise UserError(f"does not fit this run's tables (they hold {stored} bytes, the schema's {tables})")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if expected + tables > memory:
        raise UserError(f"needs {expected + tables} bytes of memory, this machine has {memory}; use a larger machine")


def _read_shapes(folder: Path) -> list[Any]:
    metadata = ocp.StandardCheckpointer().metadata(folder).item_metadata
    if metadata is None:
        raise UserError(f"{folder.name}: is missing or damaged; use another checkpoint or a copy of the run")
    return jax.tree.leaves(metadata.tree, is_leaf=lambda node: hasattr(node, "shape"))


def _count_bytes(array: Any) -> int:
    count = 1
    for length in array.shape:  # in Python's integers, which do not overflow
        count *= int(length)
    return count * np.dtype(array.dtype).itemsize


def _name(path: Any) -> str:
    # Orbax restores named tuples as such and tuples as lists, so the keys' own words are the same before and after.
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def _is_as_saved(array: Any, saved: Any) -> bool:
    if not isinstance(saved, list):
        return saved == _digest(array)
    parts = [(tuple(map(slice, starts, stops)), digest) for starts, stops, digest in saved]
    return sum(array[part].size for part, _ in parts) == array.size and all(
        _digest(array[part]) == digest for part, digest in parts
    )


def _digest(array: Any) -> int:
    """Hashes an array's bytes: sums of pieces at the speed of memory, then a CRC of the sums in order."""
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    whole = len(content) // 8 * 8
    words = content[:whole].view(np.uint64)
    sums = np.add.reduceat(words, np.arange(0, len(words), _PIECE)) if len(words) else words
    return zlib.crc32(content[whole:].tobytes(), zlib.crc32(sums.tobytes()))

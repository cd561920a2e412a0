"""Says what a checkpoint holds: the items that are saved of a state, and those that are restored.

dense       weights, optimizer state, statistics and step
tables      rows of each table, saved by one process
stacks      the arrays in which tables lie on the devices, saved by several processes, with `row_digests` and `pieces`
progress    the run's `RunProgress`
digests     of the arrays of `dense` and `tables`
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from wukong_jax.embeddings.exchange import Exchange
from wukong_jax.runs.checkpoint_content import compute_digests, compute_shard_digests
from wukong_jax.runs.stored_stacks import PART_BYTES, PIECES, ROW_DIGESTS, STACKS, stack_items
from wukong_jax.training.state import TrainState

ITEMS = ("dense", "tables", STACKS, ROW_DIGESTS, PIECES, "progress", "digests")
_WRITTEN_TOGETHER = 1 << 20  # bytes from which all processes write a copied array, each a slice of it


def take_dense(state: TrainState) -> dict[str, Any]:
    """Returns the part of a state that is no table, by the names of its fields."""
    names = ["step", "params", "optimizer_state", "learning_rate_scale", "key"]
    names += ["statistics"] if state.statistics else []  # checkpoints of models without statistics have no such key
    return {name: getattr(state, name) for name in names}


def copy_arrays(exchange: Exchange, state: TrainState) -> dict[str, Any]:
    """Copies what one process saves to the host: the dense part, and tables in logical layout."""
    arrays = {"dense": jax.tree.map(np.array, take_dense(state))}
    if exchange.layout.stacks:  # Orbax refuses an empty item
        arrays["tables"] = exchange.export_tables(state.tables)
    return arrays


def pack_copies(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the items of the copies of `copy_arrays`, and of their digests."""
    items = {name: ocp.args.StandardSave(tree) for name, tree in arrays.items()}
    return items | {"digests": ocp.args.JsonSave(compute_digests(arrays))}


def pack_in_place(exchange: Exchange, state: TrainState) -> dict[str, Any]:
    """Returns the items that several processes save together: each its shards of stacks, not tables, and digests."""
    dense = take_dense(state)
    digests = compute_shard_digests({"dense": dense})
    items = {
        "dense": ocp.args.StandardSave(jax.tree.map(_take_small, dense)),
        "digests": ocp.args.JsonSave(digests),
    }
    if exchange.layout.stacks:
        arrays, row_digests, pieces = stack_items(exchange, state.tables)
        parts = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=PART_BYTES), arrays)
        items |= {
            STACKS: ocp.args.PyTreeSave(arrays, save_args=parts),
            ROW_DIGESTS: ocp.args.StandardSave(row_digests),
            PIECES: ocp.args.JsonSave(pieces),
        }
    return items


def find_items(folder: Path, abstract: Mapping[str, Any], has_tables: bool) -> dict[str, Any]:
    """Returns the items to restore of a checkpoint; tables that several processes saved are not among them.

    Args:
      folder: folder of the step.
      abstract: the dense part, as a pytree of shapes and dtypes.
      has_tables: whether the run has tables.
    """
    template = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), abstract)
    items = {"dense": ocp.args.StandardRestore(template), "progress": ocp.args.JsonRestore()}
    if (folder / STACKS).exists():
        items[PIECES] = ocp.args.JsonRestore()
    elif has_tables:
        items["tables"] = ocp.args.StandardRestore()
    if (folder / "digests").exists():  # checkpoints of earlier versions have none
        items["digests"] = ocp.args.JsonRestore()
    return items


def _take_small(array: jax.Array) -> Any:
    """Returns a small copied array as one of NumPy, which process 0 writes: Orbax compiles a program for each slice."""
    is_small = array.is_fully_replicated and array.nbytes < _WRITTEN_TOGETHER
    return np.asarray(array.addressable_data(0)) if is_small else array

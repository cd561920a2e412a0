"""Lets all processes stop after the same step, and sums the rows of their batches."""

import collections

import jax
import numpy as np
from jax.sharding import Mesh

from wukong_jax.data.blocks.batch import Batch
from wukong_jax.data.blocks.loader import Position
from wukong_jax.runs.stop_signal import StopSignal
from wukong_jax.sharding.mesh import batch_sharding, place_own_rows, replicated
from wukong_jax.training.log_window import STEPS_IN_FLIGHT
from wukong_jax.training.loop import PlacedBatch


class StopVotes:
    """Tells every process, after the same step, that one has received a stop signal, and sums the rows of batches.

    A process alone looks at its own flag. Several vote with every batch, by an all-reduce of two numbers that is read
    a few steps later, so that the host does not wait for the devices.
    """

    def __init__(self, mesh: Mesh, stop: StopSignal) -> None:
        """Stores the mesh and this process's signal."""
        self._mesh, self._stop = mesh, stop
        self._alone = batch_sharding(mesh).is_fully_addressable
        self._devices = len(batch_sharding(mesh).addressable_devices)
        self._unread: collections.deque[jax.Array] = collections.deque()
        self._reduce = jax.jit(lambda votes: (votes[:, 0].max(), votes[:, 1].sum()), out_shardings=replicated(mesh))

    def cast(self, columns: Batch, weight: np.ndarray, position: Position) -> PlacedBatch:
        """Makes the loop's batch from one on the devices; all processes call it for every batch.

        Args:
          columns: the batch on the devices.
          weight: [own rows], weights of this process's rows.
          position: position in the data after the batch.
        """
        rows = int(np.count_nonzero(weight))
        if self._alone:
            return PlacedBatch(columns, rows, position)
        votes = np.zeros((self._devices, 2), np.int32)
        votes[0] = self._stop.received or 0, rows
        signal_number, all_rows = self._reduce(place_own_rows(self._mesh, votes))
        return PlacedBatch(columns, all_rows, position, signal_number)

    def count(self, batch: PlacedBatch) -> int:
        """Returns the number of a received signal, or 0; called after the step of the batch."""
        if self._alone:
            return self._stop.received or 0
        self._unread.append(batch.signal)
        return int(self._unread.popleft()) if len(self._unread) > STEPS_IN_FLIGHT else 0

"""Counts the bytes and messages that a compiled step sends on the slow ("host") and fast ("chip") links, by purpose.

A send between ranks of the same host counts on the chip axis, any other send on the host axis. Only sends are counted,
so a sum over the mesh counts each byte once. Only payload is counted, without headers and acknowledgements.
"""

import dataclasses
import math
import re
from collections.abc import Iterable

import numpy as np

from wukong_jax.sharding.mesh import CHIP, HOST
from wukong_jax.sharding.traffic.hlo_collectives import Collective, find_collectives
from wukong_jax.sharding.traffic.hlo_text import ArrayShape
from wukong_jax.sharding.traffic.link_transfers import compute_transfers

IDS = "ids"
EMBEDDINGS = "embeddings"
DENSE_WEIGHTS = "dense weights"
TOWER_GRADIENTS = "tower gradients"
DENSE_GRADIENTS = "dense gradients"
ROW_OPTIMIZER = "row optimizer"
OTHER = "other"
PURPOSES = (IDS, EMBEDDINGS, DENSE_WEIGHTS, TOWER_GRADIENTS, DENSE_GRADIENTS, ROW_OPTIMIZER, OTHER)

FORWARD, BACKWARD, UPDATE = "forward", "backward", "update"
DIRECTIONS = (FORWARD, BACKWARD, UPDATE)

# The innermost of these `jax.named_scope`s in a collective's name determines its purpose.
SCOPE_PURPOSES = {
    "route_ids": IDS,
    "collect": EMBEDDINGS,
    "peer_exchange": EMBEDDINGS,
    "row_optimizer": ROW_OPTIMIZER,
    "towers": TOWER_GRADIENTS,
    "gather_weights": DENSE_WEIGHTS,
    "dense_gradients": DENSE_GRADIENTS,
    "tower_gradients": TOWER_GRADIENTS,
}
_SCOPE = re.compile(rf"(?<![\w.\-])({'|'.join(SCOPE_PURPOSES)})(?![\w.\-])")
_SUMS = frozenset({"all-reduce", "reduce-scatter", "all-gather"})


def classify(kind: str, op_names: Iterable[str]) -> tuple[str, str]:
    """Determines the purpose of a collective and the part of the step in which it runs.

    1. The first name that contains a scope of `SCOPE_PURPOSES` decides, by its innermost scope. The scope `towers`
       counts only for reductions in the backward pass (the exchange between towers has its own scope).
    2. Without such a scope, a collective is for dense gradients in the backward pass and "other" elsewhere (the sums
       of loss and metrics).

    A collective is in the backward pass if its name contains `transpose(`, which is how JAX names a transposed
    function. Row optimizer traffic outside the backward pass belongs to the update.

    Args:
      kind: the collective's kind.
      op_names: names of JAX operations, the most likely first.

    Returns:
      (purpose, direction), from `PURPOSES` and `DIRECTIONS`.
    """
    names = list(op_names) or [""]
    for name in names:
        backward = "transpose(" in name
        for scope in reversed(_SCOPE.findall(name)):
            purpose = SCOPE_PURPOSES[scope]
            if scope == "towers" and not (backward and kind in _SUMS):
                continue
            if scope.endswith("_gradients"):  # added up after differentiation, see `training.dense_shards`
                return purpose, BACKWARD
            return purpose, BACKWARD if backward else UPDATE if purpose == ROW_OPTIMIZER else FORWARD
    backward = "transpose(" in names[0]
    return (DENSE_GRADIENTS, BACKWARD) if backward else (OTHER, FORWARD)


@dataclasses.dataclass(frozen=True)
class LinkSends:
    """The sends of each rank on one mesh axis.

    Attributes:
      bytes: [H * C] bytes sent, by rank.
      messages: [H * C] messages sent, by rank.
    """

    bytes: tuple[float, ...]
    messages: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class CollectiveTraffic:
    """The traffic of one array of a collective, summed over all runs of the collective in a step.

    Attributes:
      kind: `all-to-all`, ...
      purpose: one of `PURPOSES`.
      direction: one of `DIRECTIONS`.
      dtype: the array's dtype as HLO names it (`f32`, `bf16`, `u16`, `s32`).
      payload_bytes: a device's input bytes per run.
      group_size: ranks per group.
      times: runs per step.
      host: sends between hosts.
      chip: sends within a host.
      op_name: the JAX operation that the array comes from; "" if XLA kept no name.
    """

    kind: str
    purpose: str
    direction: str
    dtype: str
    payload_bytes: int
    group_size: int
    times: int
    host: LinkSends
    chip: LinkSends
    op_name: str

    @property
    def host_bytes(self) -> float:
        """Bytes per step that all ranks together send to other hosts."""
        return math.fsum(self.host.bytes)

    @property
    def chip_bytes(self) -> float:
        """Bytes per step that all ranks together send within their hosts."""
        return math.fsum(self.chip.bytes)

    @property
    def host_messages(self) -> int:
        """Messages per step that all ranks together send to other hosts."""
        return sum(self.host.messages)

    @property
    def chip_messages(self) -> int:
        """Messages per step that all ranks together send within their hosts."""
        return sum(self.chip.messages)


@dataclasses.dataclass(frozen=True)
class Traffic:
    """The traffic of one step.

    Attributes:
      hosts: H.
      chips: C.
      transport: the collective algorithms that were assumed, "ring" or "gloo".
      collectives: the traffic of each array of each collective.
    """

    hosts: int
    chips: int
    transport: str
    collectives: tuple[CollectiveTraffic, ...]

    def total(
        self,
        *,
        axis: str | None = None,
        purpose: str | None = None,
        direction: str | None = None,
        kind: str | None = None,
        unit: str = "bytes",
        over: str = "mesh",
    ) -> float:
        """Sums the sends of a step.

        Args:
          axis: "host" or "chip"; None for both.
          purpose: one of `PURPOSES`; None for all.
          direction: one of `DIRECTIONS`; None for all.
          kind: a kind of collective; None for all.
          unit: "bytes" or "messages".
          over: "mesh" for the sum over all ranks, "host" or "device" for the host or rank that sends most.

        Returns:
          The sum.

        Raises:
          ValueError: an argument has none of these values.
        """
        for word, allowed in (
            (axis, (None, HOST, CHIP)),
            (purpose, (None, *PURPOSES)),
            (direction, (None, *DIRECTIONS)),
            (unit, ("bytes", "messages")),
            (over, ("mesh", "host", "device")),
        ):
            if word not in allowed:
                raise ValueError(f"{word!r} is none of {', '.join(map(str, allowed))}")
        by_rank = np.zeros(self.hosts * self.chips)
        for row in self.collectives:
            if purpose in (None, row.purpose) and direction in (None, row.direction) and kind in (None, row.kind):
                for name, sends in ((HOST, row.host), (CHIP, row.chip)):
                    if axis in (None, name):
                        by_rank += np.asarray(getattr(sends, unit), np.float64)
        if over == "mesh":
            return float(by_rank.sum())
        return float((by_rank.reshape(self.hosts, -1).sum(1) if over == "host" else by_rank).max())

    def to_rows(self) -> list[dict[str, str | int | float]]:
        """Returns a flat dict per entry of `collectives`, for JSON, with sums over the mesh."""
        return [{field: getattr(row, field) for field in _ROW_FIELDS} for row in self.collectives]


_ROW_FIELDS = (
    "kind",
    "purpose",
    "direction",
    "dtype",
    "payload_bytes",
    "group_size",
    "times",
    "host_bytes",
    "chip_bytes",
    "host_messages",
    "chip_messages",
    "op_name",
)


def measure_traffic(hlo_text: str, hosts: int, chips: int, transport: str = "ring") -> Traffic:
    """Counts the traffic of a compiled step.

    Args:
      hlo_text: `jax.jit(...).lower(...).compile().as_text()`.
      hosts: H.
      chips: C; the program's devices must be in mesh order, rank = host * C + chip.
      transport: "ring" for the textbook algorithms, "gloo" for those that JAX uses between CPU processes; see
        `link_transfers.compute_transfers`.

    Returns:
      The traffic of one step.

    Raises:
      ValueError: the program is for another number of devices, or cannot be counted: it has an unknown collective, or
        a size or trip count that is known at run time only.
    """
    rows = []
    for collective in find_collectives(hlo_text, hosts, chips):
        for array, op_names in zip(collective.arrays, collective.op_names, strict=True):
            rows.append(_measure_array(collective, array, op_names, hosts, chips, transport))
    return Traffic(hosts, chips, transport, tuple(rows))


def _measure_array(
    collective: Collective, array: ArrayShape, op_names: tuple[str, ...], hosts: int, chips: int, transport: str
) -> CollectiveTraffic:
    sizes = np.zeros((2, hosts * chips))
    messages = np.zeros((2, hosts * chips), np.int64)
    element_bytes = max(array.bytes // max(array.elements, 1), 1)
    for group in collective.groups:
        sent = compute_transfers(collective.kind, group, array.bytes, element_bytes, transport)
        inside = (sent.source // chips == sent.target // chips).astype(int)
        np.add.at(sizes, (inside, sent.source), sent.bytes)
        np.add.at(messages, (inside, sent.source), sent.messages)
    host, chip = (
        LinkSends(tuple((sizes[i] * collective.times).tolist()), tuple((messages[i] * collective.times).tolist()))
        for i in range(2)
    )
    purpose, direction = classify(collective.kind, op_names)
    return CollectiveTraffic(
        kind=collective.kind,
        purpose=purpose,
        direction=direction,
        dtype=array.dtype,
        payload_bytes=array.bytes,
        group_size=max(len(group) for group in collective.groups),
        times=collective.times,
        host=host,
        chip=chip,
        op_name=op_names[0] if op_names else "",
    )


def format_traffic(traffic: Traffic) -> str:
    """Formats the traffic as two text tables, by purpose and direction and by collective."""
    title = f"Sent per step on {traffic.hosts} hosts x {traffic.chips} chips, sums over the mesh ({traffic.transport})"
    head = ("purpose", "direction", "between hosts", "messages", "inside hosts", "messages")
    lines: list[tuple[str, ...]] = [head]
    for purpose in PURPOSES:
        for direction in DIRECTIONS:
            if any((row.purpose, row.direction) == (purpose, direction) for row in traffic.collectives):
                lines.append((purpose, direction, *_cells(traffic, purpose, direction)))
    lines.append(("sum", "", *_cells(traffic, None, None)))
    each: list[tuple[str, ...]] = [
        ("collective", "purpose", "direction", "group", "times", "array", "between hosts", "inside hosts")
    ]
    for row in traffic.collectives:
        array = f"{row.dtype} {_size(row.payload_bytes)}"
        sent = (_size(row.host_bytes), _size(row.chip_bytes))
        each.append((row.kind, row.purpose, row.direction, str(row.group_size), str(row.times), array, *sent))
    return "\n".join([title, *_align(lines, 2), "", *_align(each, 3)])


def _cells(traffic: Traffic, purpose: str | None, direction: str | None) -> list[str]:
    cells = []
    for axis in (HOST, CHIP):
        size = traffic.total(axis=axis, purpose=purpose, direction=direction)
        count = traffic.total(axis=axis, purpose=purpose, direction=direction, unit="messages")
        cells += [_size(size), f"{count:,.0f}"]
    return cells


def _size(count: float) -> str:
    """Formats a number of bytes: 1,024 B, 3.5 KiB, 1.25 MiB."""
    for unit, limit in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 10 << 10)):
        if count >= limit:
            return f"{count / (limit if unit != 'KiB' else 1 << 10):,.2f} {unit}"
    return f"{count:,.0f} B"


def _align(lines: list[tuple[str, ...]], left: int) -> list[str]:
    """Pads cells to columns; the first `left` columns are left-aligned, the others right-aligned."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    pads = [str.ljust if i < left else str.rjust for i in range(len(widths))]
    return ["  ".join(pad(c, w) for pad, c, w in zip(pads, line, widths, strict=True)).rstrip() for line in lines]

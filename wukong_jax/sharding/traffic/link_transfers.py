"""Computes the sends between ranks that each collective causes, given its algorithm."""

import dataclasses
import math

import numpy as np

TRANSPORTS = ("ring", "gloo")


@dataclasses.dataclass(frozen=True)
class Transfers:
    """Sends between ranks, one entry for each (source, target) pair.

    Attributes:
      source: [sends] int, sending ranks.
      target: [sends] int, receiving ranks.
      bytes: [sends] float64; fractional where a ring does not divide a buffer evenly.
      messages: [sends] int; a message is what one step of the algorithm sends from one rank to another for one
        array. A transport may split it into packets.
    """

    source: np.ndarray
    target: np.ndarray
    bytes: np.ndarray
    messages: np.ndarray


def compute_transfers(
    kind: str, group: tuple[int, ...], array_bytes: int, element_bytes: int, transport: str
) -> Transfers:
    """Computes the sends of one run of a collective in one group.

    Let `size` be the input bytes of each of the g ranks:

      all-to-all            every rank sends size / g to each other rank directly.
      all-gather            a ring in group order: g - 1 steps, each passing on the `size` bytes of one rank.
      reduce-scatter        a ring: g - 1 steps of size / g.
      all-reduce            a reduce-scatter, then an all-gather of size / g: 2 (g - 1) steps of size / g.
      collective-permute    `size` for each (source, target) pair.
      collective-broadcast  a chain in group order, `size` per hop.

    These are the "ring" algorithms, used by NCCL's rings if the group's order follows the hosts. "gloo" is what JAX
    uses between CPU processes. Its all-reduce runs around the ring in the other direction and divides the buffer into
    whole segments. Its reduce-scatter is by recursive halving, which leaves the parts in bit-reversed order, so each
    part is then sent to its owner.

    Args:
      kind: the collective's kind.
      group: ranks in the collective's order; for a permute, (source, target).
      array_bytes: size of one rank's input array.
      element_bytes: size of one array element.
      transport: "ring" or "gloo".

    Returns:
      The sends, without those from a rank to itself.

    Raises:
      ValueError: an unknown kind or transport, or Gloo's reduce-scatter in a group that is not a power of two.
    """
    if transport not in TRANSPORTS:
        raise ValueError(f"transport {transport!r}: must be one of {', '.join(TRANSPORTS)}")
    g, ranks = len(group), np.asarray(group)
    if kind == "all-to-all":
        source, target = np.repeat(ranks, g), np.tile(ranks, g)
        sent = _entries(source, target, array_bytes / g, 1)
    elif kind == "collective-permute":
        sent = _entries(ranks[:1], ranks[1:], array_bytes, 1)
    elif kind == "collective-broadcast":
        sent = _entries(ranks[:-1], ranks[1:], array_bytes, 1)
    elif kind == "all-gather":
        sent = _entries(ranks, np.roll(ranks, -1), (g - 1) * array_bytes, g - 1)
    elif kind == "reduce-scatter" and transport == "ring":
        sent = _entries(ranks, np.roll(ranks, -1), (g - 1) * array_bytes / g, g - 1)
    elif kind == "reduce-scatter":
        sent = _gloo_reduce_scatter(ranks, array_bytes, element_bytes)
    elif kind == "all-reduce" and transport == "ring":
        sent = _entries(ranks, np.roll(ranks, -1), 2 * (g - 1) * array_bytes / g, 2 * (g - 1))
    elif kind == "all-reduce":
        sent = _gloo_all_reduce(ranks, array_bytes, element_bytes)
    else:
        raise ValueError(f"no rule for what a {kind} sends")
    moves = sent.source != sent.target
    return Transfers(sent.source[moves], sent.target[moves], sent.bytes[moves], sent.messages[moves])


def _entries(source: np.ndarray, target: np.ndarray, size: float, messages: int) -> Transfers:
    sizes = np.full(len(source), size, np.float64)
    return Transfers(source, target, sizes, np.full(len(source), messages, np.int64))


_GLOO_SEGMENT_BYTES = 1 << 20  # gloo::detail::AllreduceOptionsImpl::kMaxSegmentSize


def _gloo_all_reduce(ranks: np.ndarray, array_bytes: int, element_bytes: int) -> Transfers:
    """Rank i sends to i - 1: first all parts except its own, to be summed, then all parts except that of i - 1."""
    g = len(ranks)
    segments = max(math.ceil(array_bytes / _GLOO_SEGMENT_BYTES), 2 * g)
    per_rank = math.ceil(segments / g)
    segment = math.ceil(math.ceil(array_bytes / (per_rank * g)) / element_bytes) * element_bytes
    parts = np.clip(array_bytes - np.arange(g) * per_rank * segment, 0, per_rank * segment)
    sizes = 2 * array_bytes - parts - np.roll(parts, 1)
    messages = 2 * (parts > 0).sum() - (parts > 0) - np.roll(parts > 0, 1)
    return Transfers(ranks, np.roll(ranks, 1), sizes.astype(np.float64), messages)


def _gloo_reduce_scatter(ranks: np.ndarray, array_bytes: int, element_bytes: int) -> Transfers:
    """In step i, ranks that differ in bit i swap half of the remaining data; finally parts are sent to their owners."""
    g = len(ranks)
    steps = g.bit_length() - 1
    if 1 << steps != g:
        raise ValueError(f"Gloo's reduce-scatter in a group of {g}: only powers of two are known here")
    place = np.arange(g)
    swaps = [(place ^ (1 << step), array_bytes / 2 ** (step + 1)) for step in range(steps)]
    reversed_bits = sum((place >> step & 1) << (steps - 1 - step) for step in range(steps)) if steps else place
    swaps.append((np.asarray(reversed_bits), array_bytes / g))
    return Transfers(
        np.tile(ranks, len(swaps)),
        np.concatenate([ranks[to] for to, _ in swaps]),
        np.concatenate([np.full(g, size, np.float64) for _, size in swaps]),
        np.ones(g * len(swaps), np.int64),
    )

"""What each collective sends from which rank to which, by the algorithm that runs it."""

import dataclasses
import math

import numpy as np

TRANSPORTS = ("ring", "gloo")


@dataclasses.dataclass(frozen=True)
class Transfers:
    """Sends between ranks, one entry for each (source, target) pair.

    Attributes:
      source: [sends] int.
      target: [sends] int.
      bytes: [sends] float64; a fraction where a ring cuts a buffer into parts that are not whole.
      messages: [sends] int; a message is what one step of the algorithm sends from one rank to another for one
        array. A transport may cut it into packets.
    """

    source: np.ndarray
    target: np.ndarray
    bytes: np.ndarray
    messages: np.ndarray


def compute_transfers(
    kind: str, group: tuple[int, ...], array_bytes: int, element_bytes: int, transport: str
) -> Transfers:
    """Computes the sends of one run of a collective in one group.

    With `size` the bytes that each of g ranks gives:

      all-to-all            every rank sends size / g to each other rank, directly.
      all-gather            a ring in the group's order: g - 1 steps, each passing one rank's size on.
      reduce-scatter        a ring, g - 1 steps of size / g.
      all-reduce            a reduce-scatter, then an all-gather of size / g: 2 (g - 1) steps of size / g.
      collective-permute    the pairs, size each.
      collective-broadcast  a chain in the group's order, size each.

    "ring" is this, what NCCL's rings send where the group's order follows the hosts. "gloo" is what JAX sends
    between CPU processes: its all-reduce runs round the other way and cuts the buffer into whole segments; its
    reduce-scatter halves and doubles, after which parts lie in bit-reversed order and go once more to their owners.

    Args:
      kind: of the collective.
      group: ranks in the collective's order; a permute's (source, target).
      array_bytes: of the array that a rank gives.
      element_bytes: of one element.
      transport: "ring" or "gloo".

    Returns:
      The sends; none from a rank to itself.

    Raises:
      ValueError: an unknown kind or transport, or Gloo's reduce-scatter in a group that is no power of two.
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
    """Rank i sends to i - 1: first every part but its own, to be summed; then every part but that of i - 1."""
    g = len(ranks)
    segments = max(math.ceil(array_bytes / _GLOO_SEGMENT_BYTES), 2 * g)
    per_rank = math.ceil(segments / g)
    segment = math.ceil(math.ceil(array_bytes / (per_rank * g)) / element_bytes) * element_bytes
    parts = np.clip(array_bytes - np.arange(g) * per_rank * segment, 0, per_rank * segment)
    sizes = 2 * array_bytes - parts - np.roll(parts, 1)
    messages = 2 * (parts > 0).sum() - (parts > 0) - np.roll(parts > 0, 1)
    return Transfers(ranks, np.roll(ranks, 1), sizes.astype(np.float64), messages)


def _gloo_reduce_scatter(ranks: np.ndarray, array_bytes: int, element_bytes: int) -> Transfers:
    """Step i swaps half of what is left with the rank whose bit i differs; at last parts go to their owners."""
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

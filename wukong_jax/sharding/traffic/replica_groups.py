"""Parses the groups of ranks that a collective joins, in all three forms that HLO prints."""

import itertools
import math
import re

import numpy as np

Groups = tuple[tuple[int, ...], ...]

_IOTA = re.compile(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"@?mesh\[([^\]]*)\](?:,\s*device_ids=\(((?:[^()]|\([^()]*\))*)\))?\s*\{([^}]*)\}")
_TRANSPOSED = re.compile(r"\[([\d,]+)\](?:T\(([\d,]+)\))?")
_SUB_AXIS = re.compile(r"(.+):\((\d+)\)(\d+)$")
_SLICE_IDS = 100_000  # XLA:TPU numbers a device of another slice as (slice, from 1) * 100,000 + device.


def parse_replica_groups(attributes: str, ranks: int) -> Groups:
    """Parses `replica_groups=` in a collective's attributes.

    HLO prints three forms: explicit (`{{0,1},{2,3}}`), iota (`[2,2]<=[2,2]T(1,0)`: the numbers from 0, reshaped,
    transposed and split into rows), and mesh axes (`mesh['host'=2,'chip'=4] {'chip'}`, with parts of axes as
    `'chip':(2)2`, and other device numbers as `device_ids=(1,0,...)` or `device_ids=([2,4]T(1,0))`). `{}` or a missing
    attribute means one group of all ranks.

    Args:
      attributes: the text after a collective's operands.
      ranks: number of ranks in the program.

    Returns:
      The groups; the order within a group is the collective's order.

    Raises:
      ValueError: the text has another form, or a rank is not below `ranks`.
    """
    start = attributes.find("replica_groups=")
    text = attributes[start + len("replica_groups=") :] if start >= 0 else "{}"
    if text.startswith("{"):
        groups = parse_id_lists(text) or (tuple(range(ranks)),)
    elif match := _IOTA.match(text):
        groups = _iota_groups(*match.groups())
    elif match := _MESH.match(text):
        groups = _mesh_groups(*match.groups())
    else:
        raise ValueError(f"cannot read the replica groups {text[:80]}")
    if any(not 0 <= rank < ranks for group in groups for rank in group):
        raise ValueError(f"replica groups {groups} name a rank outside 0..{ranks - 1}")
    return groups


def parse_id_lists(text: str) -> Groups:
    """Parses lists such as `{{0,1},{2,3}}` at the start of a text; empty lists are left out."""
    match = re.match(r"\{(?:\s*\{[\d,\s]*\}\s*,?)*\s*\}", text)
    if not match:
        raise ValueError(f"cannot read the lists of ids {text[:80]}")
    lists = re.findall(r"\{([\d,\s]+)\}", match.group())
    return tuple(tuple(int(i) for i in ids.split(",")) for ids in lists if ids.strip())


def parse_slice_target(text: str, chips: int) -> Groups:
    """Parses the groups of a transfer between TPU slices; each slice is a host of the mesh.

    They are printed as lists of device numbers (`{{100000,200000},{100001,200001}}`, where 100001 is device 1 of slice
    1, which is host 0) or as a product (`"{1,2}x{0:1}"`: for each of the devices 0 and 1, a group over slices 1 and 2).

    Args:
      text: text that begins with the value of `_xla_megascale_target=`.
      chips: C.

    Returns:
      Groups of ranks.

    Raises:
      ValueError: the text has another form.
    """
    if text.startswith("{"):
        names = parse_id_lists(text)
        return tuple(tuple((n // _SLICE_IDS - 1) * chips + n % _SLICE_IDS for n in group) for group in names)
    match = re.match(r'"?\{([\d:,]+)\}x\{([\d:,]+)\}', text)
    if not match:
        raise ValueError(f"cannot read the target of a transfer between slices {text[:80]}")
    slices, devices = (_expand_ranges(part) for part in match.groups())
    return tuple(tuple((number - 1) * chips + device for number in slices) for device in devices)


def _expand_ranges(text: str) -> list[int]:
    """Expands `0:2,5` to [0, 1, 2, 5]."""
    ends = [[int(end) for end in part.split(":")] for part in text.split(",")]
    return [number for part in ends for number in range(part[0], part[-1] + 1)]


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _iota_groups(groups: str, sizes: str, order: str | None) -> Groups:
    ids = np.arange(math.prod(_numbers(sizes))).reshape(_numbers(sizes))
    ids = ids.transpose(_numbers(order)) if order else ids
    return tuple(tuple(row) for row in ids.reshape(_numbers(groups)).tolist())


def _mesh_groups(axes: str, device_ids: str | None, group_axes: str) -> Groups:
    names, sizes = zip(*(_name_and_size(axis) for axis in axes.split(",")), strict=True)
    ids = _mesh_ids(device_ids, math.prod(sizes))
    wanted = [_axis_part(axis.strip()) for axis in group_axes.split(",")]
    split_sizes: list[int] = []
    places: dict[tuple[str, int], int] = {}
    for name, size in zip(names, sizes, strict=True):
        cuts = sorted({1, size, *(cut for n, pre, part in wanted if n == name for cut in (pre, pre * (part or size)))})
        for low, high in itertools.pairwise(cuts):
            places[name, low] = len(split_sizes)
            split_sizes.append(high // low)
    grouped = [places[name, pre] for name, pre, _ in wanted if (name, pre) in places]
    rest = [place for place in range(len(split_sizes)) if place not in grouped]
    per_group = math.prod(split_sizes[place] for place in grouped)
    ids = ids.reshape(split_sizes).transpose(rest + grouped)
    return tuple(tuple(row) for row in ids.reshape(-1, per_group).tolist())


def _mesh_ids(text: str | None, count: int) -> np.ndarray:
    """Parses the device numbers of a mesh, in its order: a list, or the numbers from 0 reshaped and transposed."""
    if not text:
        return np.arange(count)
    if match := _TRANSPOSED.fullmatch(text.strip()):
        ids = np.arange(count).reshape(_numbers(match[1]))
        return ids.transpose(_numbers(match[2])) if match[2] else ids
    return np.asarray(_numbers(re.sub(r"[^\d,]", "", text)))


def _name_and_size(axis: str) -> tuple[str, int]:
    name, _, size = axis.rpartition("=")
    return name.strip().strip("'\""), int(size)


def _axis_part(axis: str) -> tuple[str, int, int]:
    """Parses an axis or part of one as (name, product of the parts before it, size); size 0 means the whole axis."""
    match = _SUB_AXIS.match(axis)
    name, pre, size = match.groups() if match else (axis, "1", "0")
    return name.strip("'\""), int(pre), int(size)

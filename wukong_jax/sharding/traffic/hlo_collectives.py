"""Finds the collectives that one run of a compiled program executes, from its HLO text.

The call graph is walked from ENTRY. Collectives in a loop count once per iteration, a conditional counts its most
expensive branch, and an asynchronous collective counts where it starts.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence

from wukong_jax.sharding.traffic.hlo_text import (
    ArrayShape,
    Computation,
    Instruction,
    Module,
    operand_arrays,
    parse_arrays,
    parse_module,
    split_at_commas,
)
from wukong_jax.sharding.traffic.loop_trips import find_trip_count
from wukong_jax.sharding.traffic.replica_groups import Groups, parse_id_lists, parse_replica_groups, parse_slice_target

KINDS = (
    "all-to-all",
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "collective-permute",
    "collective-broadcast",
)
# XLA:TPU's names of collectives between slices, which appear in HLO as a send and a receive through the hosts.
_SLICE_TRANSFERS = {
    "ALL_TO_ALL": "all-to-all",
    "ALL_GATHER": "all-gather",
    "ALL_REDUCE": "all-reduce",
    "REDUCE_SCATTER": "reduce-scatter",
}
_MOVES_DATA = re.compile(r"\s(?:all-(?!start|done)|collective-|ragged-|reduce-scatter|send|recv)[\w\-]*\(")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|condition|called_computations|branch_computations|true_computation|false_computation)="
    r"(\{[^}]*\}|%?[\w.\-]+)"
)
_NAME = re.compile(r"%?([\w.\-]+)")
_NEVER_COUNTED = re.compile(r"-done$|-update$|^recv$|^all-$")
_NOT_COLLECTIVE = frozenset({"after-all"})


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective, described from the view of one device.

    Attributes:
      kind: one of `KINDS`.
      arrays: a device's input arrays; an all-to-all's separate operands, one per peer, count as one array.
      op_names: for each array, names of the JAX operations it may come from, the most likely first; empty if XLA kept
        no name.
      groups: ranks that communicate with each other, in the collective's order; for a permute, (source, target) pairs.
      times: how often it runs per run of the program.
      line: its HLO line.
    """

    kind: str
    arrays: tuple[ArrayShape, ...]
    op_names: tuple[tuple[str, ...], ...]
    groups: Groups
    times: int
    line: str

    @property
    def bytes(self) -> int:
        """Input bytes of one device, summed over all runs of the collective."""
        return self.times * sum(array.bytes for array in self.arrays)


def find_collectives(text: str, hosts: int, chips: int) -> tuple[Collective, ...]:
    """Finds the collectives of a compiled program.

    Args:
      text: `compiled.as_text()`.
      hosts: H.
      chips: C; a device's rank, host * C + chip, is its position in the program's device assignment.

    Returns:
      The collectives that move data between devices, in program order.

    Raises:
      ValueError: the program runs on another number of devices, a collective has an unsupported form, or the trip
        count of a loop around a collective cannot be determined.
    """
    module = parse_module(text)
    # XLA:TPU compiles the program of one slice, with ranks within the slice; slices communicate through their hosts.
    if module.ranks not in (hosts * chips, chips):
        raise ValueError(f"a program of {module.ranks} devices cannot be laid out as {hosts} hosts x {chips} chips")
    return tuple(_Walk(module, hosts, chips).collect(module.entry, ()))


Callers = tuple[tuple[Computation, Instruction], ...]


class _Walk:
    """Walks a module's call graph once and collects its collectives."""

    def __init__(self, module: Module, hosts: int, chips: int) -> None:
        self.module, self.hosts, self.chips = module, hosts, chips
        self.moves = functools.cache(self._moves_data)

    def _moves_data(self, name: str) -> bool:
        lines = self.module.computations[name].lines
        called = (c for line in lines for c in self._called(line))
        return any(_MOVES_DATA.search(line) for line in lines) or any(self.moves(c) for c in called)

    def _called(self, line: str) -> list[str]:
        names = [name for found in _CALLED.findall(line) for name in _NAME.findall(found)]
        return [name for name in names if name in self.module.computations]

    def collect(self, name: str, callers: Callers) -> list[Collective]:
        """Returns the collectives of a computation and of all computations that it calls."""
        if not self.moves(name):
            return []
        computation = self.module.computations[name]
        found: list[Collective] = []
        for instruction in computation.instructions.values():
            found += self._collect_from(computation, instruction, callers)
        # XLA:TPU prints a collective that overlaps with other work in every fusion that it passes through.
        chains = [re.search(r'\bchain_id="(\d+)"', collective.line) for collective in found]
        keys = [match.group(1) if match else f"at {i}" for i, match in enumerate(chains)]
        return [collective for i, collective in enumerate(found) if keys.index(keys[i]) == i]

    def _collect_from(self, computation: Computation, instruction: Instruction, callers: Callers) -> list[Collective]:
        kind = instruction.opcode.removesuffix("-start")
        if kind in KINDS or kind == "send":
            read = self._read(computation, instruction, callers, kind)
            return [read] if any(len(set(group)) > 1 for group in read.groups) else []
        if _NEVER_COUNTED.search(instruction.opcode):
            return []
        if kind not in _NOT_COLLECTIVE and _MOVES_DATA.match(f" {kind}("):
            raise ValueError(f"no rule for this collective: {instruction.line}")
        inside = (*callers, (computation, instruction))
        if instruction.opcode == "while":
            return self._collect_loop(computation, instruction, inside)
        called = [self.collect(name, inside) for name in self._called(instruction.line)]
        if instruction.opcode == "conditional":
            return max(called, key=lambda branch: sum(collective.bytes for collective in branch), default=[])
        return [collective for part in called for collective in part]

    def _collect_loop(self, computation: Computation, loop: Instruction, inside: Callers) -> list[Collective]:
        """Returns the loop's collectives; the condition runs once more often than the body."""
        body, condition = (
            self.collect((loop.attribute(key) or "").lstrip("%"), inside) for key in ("body", "condition")
        )
        if not body and not condition:
            return []
        trips = find_trip_count(self.module, computation, loop)
        counted = [(c, trips) for c in body] + [(c, trips + 1) for c in condition]
        return [dataclasses.replace(c, times=c.times * times) for c, times in counted if times]

    def _read(self, computation: Computation, instruction: Instruction, callers: Callers, kind: str) -> Collective:
        try:
            if kind == "send":
                kind, groups = self._read_send(instruction)
            elif kind == "collective-permute":
                groups = self._all_slices(parse_id_lists(instruction.attribute("source_target_pairs") or ""))
            else:
                ids = self.module.ranks
                groups = self._all_slices(parse_replica_groups(instruction.attributes, ids))
            arrays = self._read_arrays(computation, instruction, kind)
        except ValueError as error:
            raise ValueError(f"{error}; in this HLO line: {instruction.line}") from error
        names = [find_op_names(self.module, computation, instruction, i, callers) for i in range(len(arrays))]
        return Collective(kind, arrays, tuple(names), groups, 1, instruction.line)

    def _all_slices(self, groups: Groups) -> Groups:
        """Repeats the groups for every slice if the program is that of one slice."""
        slices = self.hosts * self.chips // self.module.ranks
        return tuple(tuple(r + s * self.chips for r in group) for s in range(slices) for group in groups)

    def _read_send(self, instruction: Instruction) -> tuple[str, Groups]:
        key, pairs_key = "_xla_megascale_target=", "_xla_send_recv_source_target_pairs="
        text = instruction.attributes
        if pairs_key in text:
            return "collective-permute", parse_id_lists(text[text.index(pairs_key) + len(pairs_key) :].lstrip('"'))
        transfer = re.search(r'_xla_megascale_transfer_type="(\w+)"', text)
        if key not in text or not transfer or transfer.group(1) not in _SLICE_TRANSFERS:
            raise ValueError("no rule for this send")
        return _SLICE_TRANSFERS[transfer.group(1)], parse_slice_target(text[text.index(key) + len(key) :], self.chips)

    def _read_arrays(self, computation: Computation, instruction: Instruction, kind: str) -> tuple[ArrayShape, ...]:
        operands = operand_arrays(computation, instruction)
        if instruction.opcode == "send":
            operands = operands[:1]
        slices = instruction.attribute("slice_sizes")
        if slices:  # An in-place permute: its operands are source, target and offsets.
            return tuple(
                parse_arrays(f"{operands[0][0].dtype}[{part}]")[0] for part in re.findall(r"{([\d,]+)}", slices)
            )
        arrays = tuple(array for operand in operands for array in operand if array.dtype != "token")
        if kind == "all-to-all" and len(arrays) > 1 and instruction.attribute("dimensions") is None:
            return (ArrayShape(arrays[0].dtype, sum(array.elements for array in arrays)),)
        return arrays[:1] if kind == "collective-broadcast" else arrays


def find_op_names(
    module: Module, computation: Computation, instruction: Instruction, index: int, callers: Callers
) -> tuple[str, ...]:
    """Returns names of the JAX operations that an operand of a collective may come from, the most likely first.

    XLA merges all-reduces: the merged instruction has the names of all of them (`jit(step)/(a:b)`), while the
    `get-tuple-element` of each result keeps its own name. XLA:TPU drops names, but neighbouring instructions keep
    theirs.

    Args:
      module: the program.
      computation: the computation that contains the collective.
      instruction: the collective.
      index: the operand's index.
      callers: the calls that led to the computation, outermost first.

    Returns:
      If there are several results, the name of the result's reader; then the collective's own name. If there is
      neither, the names of the nearest producer and the nearest user.
    """
    users = computation.users.get(instruction.name, [])
    readers = [u.op_name for u in users if u.opcode == "get-tuple-element" and u.attribute("index") == str(index)]
    several = len(instruction.operands) > 1 and not instruction.opcode.startswith("all-to-all")
    own = _unmerge(instruction.op_name, index, len(instruction.operands))
    names = [*(readers if several else []), own]
    if not any(names):
        producer = instruction.operand_names[index : index + 1]
        names += [_nearest_producer(module, computation, producer, callers), _nearest_user(computation, instruction)]
    return tuple(dict.fromkeys(name for name in names if name))


def _unmerge(op_name: str, index: int, operands: int) -> str:
    """Returns part `index` of `jit(step)/(a:b)` if it has one part per operand, else the whole name."""
    head, opened, rest = op_name.partition("/(")
    parts = list(split_at_commas(rest.removesuffix(")").replace(",", ";").replace(":", ","))) if opened else []
    return f"{head}/{parts[index]}".replace(";", ",") if len(parts) == operands > 1 else op_name


def _nearest_producer(module: Module, computation: Computation, names: Sequence[str], callers: Callers) -> str:
    """Returns the op_name nearest upstream of some values, through tuples, transfers between slices, and callers."""
    queue, seen = list(names), set(names)
    while queue:
        producer = computation.instructions.get(queue.pop(0))
        if producer is None:
            continue
        if producer.op_name and producer.opcode != "parameter":
            return producer.op_name
        if producer.opcode == "parameter" and callers:
            outer, call = callers[-1]
            number = int(producer.operands[0])
            above = call.operand_names[number : number + 1] if call.opcode != "while" else call.operand_names
            return _nearest_producer(module, outer, above, callers[:-1])
        above = _made_from(computation, producer)
        queue += [name for name in above if name not in seen]
        seen.update(above)
    return ""


def _made_from(computation: Computation, producer: Instruction) -> tuple[str, ...]:
    """Returns the inputs of a value; for an element that a fusion only passes through, the operand passed through."""
    if producer.opcode == "recv":
        return _sent_to(computation, producer)
    made = computation.instructions.get(producer.operand_names[0]) if producer.operand_names else None
    if producer.opcode == "get-tuple-element" and made is not None:
        passed = re.search(rf"[{{ ]\{{{producer.attribute('index')}\}}: \((\d+), ", made.attributes)
        return (made.operand_names[int(passed.group(1))],) if passed else (made.name,)
    return producer.operand_names


def _sent_to(computation: Computation, receive: Instruction) -> tuple[str, ...]:
    """Returns the values sent by the send that matches a receive."""
    meeting = re.search(r'_xla_host_transfer_rendezvous="[^"]*"', receive.attributes)
    sends = [i for i in computation.instructions.values() if i.opcode == "send" and meeting]
    return next((s.operand_names[:1] for s in sends if meeting and meeting.group() in s.attributes), ())


def _nearest_user(computation: Computation, instruction: Instruction) -> str:
    """Returns the op_name nearest downstream of an instruction, within its computation."""
    queue, seen = [instruction.name], {instruction.name}
    while queue:
        for user in computation.users.get(queue.pop(0), []):
            if user.op_name:
                return user.op_name
            if user.name not in seen:
                seen.add(user.name)
                queue.append(user.name)
    return ""

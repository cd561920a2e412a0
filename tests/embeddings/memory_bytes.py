"""Counts the bytes that a compiled step reads and writes in device memory, from its HLO text.

XLA's own counter takes a gather's whole operand as read (the table), and is absent for GPUs compiled ahead. This one
counts, for each instruction that runs as a kernel:

* what it writes, and each operand once in full, also if the kernel reads it in several places;
* of an operand that only gathers read: the rows gathered, at most all of it once (what is read again is cached);
* of the gradients [M, w], that share of the gathers of one whole merge, `merge_gathers` of them: together they read
  each gradient once, which a test of `sum_runs` shows; a merge that XLA computes twice counts twice;
* of a table, an array of V rows: the touched rows only; a scatter also reads them, if it adds to them;
* of the operands of an XLA:GPU kernel that ends in a scatter into a table: the share of the touched rows, because the
  kernel looks at a row id first, and reads nothing more for an id beyond the table (seen in the compiled code);
* nothing of an array that XLA:TPU keeps in the memory on the chip, and of a sliced operand the slices.
"""

import dataclasses
import re
from collections.abc import Iterator

from wukong_jax.sharding.traffic.hlo_text import Computation, Instruction, Module, parse_arrays, parse_module
from wukong_jax.sharding.traffic.loop_trips import find_trip_count

FREE = frozenset(
    {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "after-all", "opt-barrier", "partition-id"}
    | {"copy-done", "async-start", "async-done", "custom-call-start", "custom-call-update"}
)
GATHERS, SLICES = frozenset({"gather"}), frozenset({"slice", "dynamic-slice"})
ON_CHIP = "S(1)"
THROUGH = frozenset({"bitcast", "reshape", "copy", "convert", "transpose"})


@dataclasses.dataclass(frozen=True)
class Kernel:
    """Bytes of one instruction, in one run of the program."""

    name: str
    opcode: str
    read: int
    written: int

    @property
    def bytes(self) -> int:
        return self.read + self.written


@dataclasses.dataclass(frozen=True)
class Step:
    """What is known of the step beside its HLO."""

    table_rows: int  # V
    slots: int  # M
    touched: int  # U
    is_gpu: bool
    merge_gathers: int = 0  # rows of gradients gathered by one merge; 0: the gradients are not read by gathers alone
    block: int = 0  # touched rows of one trip of a loop whose trips are not known before the run; 0: there is none


def count_kernels(hlo_text: str, step: Step) -> list[Kernel]:
    """Returns the kernels of the program, those of loops times their trips."""
    module = parse_module(hlo_text)
    return list(_count(module, module.computations[module.entry], step, 1))


def _count(module: Module, computation: Computation, step: Step, times: int) -> Iterator[Kernel]:
    for line in computation.instructions.values():
        if line.opcode in FREE:
            continue
        if line.opcode == "while":
            body = module.computations[_called(line, "body")]
            try:
                trips, in_loop = find_trip_count(module, computation, line), step
            except ValueError:
                if not step.block:
                    raise
                trips, in_loop = -(-step.touched // step.block), dataclasses.replace(step, touched=step.block, block=0)
            yield from _count(module, body, in_loop, times * trips)
        elif line.opcode == "conditional":
            raise ValueError(f"which branch runs is not known: {line.line}")
        else:
            read, written = _count_kernel(module, computation, line, step)
            yield Kernel(line.name, line.opcode, times * read, times * int(written))


def _count_kernel(module: Module, computation: Computation, line: Instruction, step: Step) -> tuple[int, float]:
    if line.opcode == "custom-call-done":  # a gather that a TPU's sparse core makes beside the other work
        return _size(line.shape), _size(line.shape)
    operands = [computation.instructions[name] for name in line.operand_names]
    inner = module.computations[_called(line, "calls")] if line.opcode == "fusion" else None
    if inner is None:
        operands = [operand for operand in operands if ON_CHIP not in operand.shape]
        if line.opcode in ("gather", "scatter"):
            raise ValueError(f"a gather or scatter outside a fusion: {line.line}")
        return sum(_size(operand.shape) for operand in operands), _size(line.shape) * (ON_CHIP not in line.shape)
    scatters = [i for i in inner.instructions.values() if i.opcode == "scatter"]
    written_places = {_rows(i.shape) for i in scatters} & {step.table_rows, step.slots}
    is_last = step.table_rows in written_places and step.is_gpu
    read = 0
    for parameter in (i for i in inner.instructions.values() if i.opcode == "parameter"):
        if ON_CHIP in operands[int(parameter.operands[0])].shape:
            continue
        size, rows = _size(parameter.shape), _rows(parameter.shape)
        gathered, sliced = (_readers(inner, parameter, kinds) for kinds in (GATHERS, SLICES))
        if _is_target(inner, parameter, scatters):
            adds = any(_reads_target(module, i) for i in scatters if _rows(i.shape) == rows)
            read += adds * size * step.touched // rows
        elif rows == step.table_rows:
            if not gathered:
                raise ValueError(f"a whole table is read: {line.line}")
            read += size * step.touched // rows
        elif gathered and step.merge_gathers and rows == step.slots and size > 4 * rows:
            read += size * sum(_rows(i.shape) for i in gathered) // step.merge_gathers
        elif gathered or sliced:
            read += min(size, sum(_size(i.shape) for i in gathered or sliced))
        else:
            read += size * step.touched // step.slots if is_last and rows == step.slots else size
    return read, sum(
        _size(i.shape) * (step.touched / _rows(i.shape) if i in scatters and _rows(i.shape) in written_places else 1)
        for i in _outputs(inner)
        if ON_CHIP not in i.shape
    )


def _outputs(inner: Computation) -> list[Instruction]:
    root = inner.root
    return [inner.instructions[n] for n in root.operand_names] if root.opcode == "tuple" else [root]


def _readers(inner: Computation, value: Instruction, kinds: frozenset[str]) -> list[Instruction]:
    """The gathers or slices that read a value, if nothing else does."""
    found: list[Instruction] = []
    for user in inner.users.get(value.name, []):
        if user.opcode in kinds and user.operand_names[0] == value.name:
            found.append(user)
        elif user.opcode in THROUGH and (behind := _readers(inner, user, kinds)):
            found += behind
        else:
            return []
    return found


def _is_target(inner: Computation, value: Instruction, scatters: list[Instruction]) -> bool:
    """Whether a value is nothing but the array that a scatter writes into."""
    users = inner.users.get(value.name, [])
    return bool(users) and all(
        (user in scatters and user.operand_names[0] == value.name)
        or (user.opcode in THROUGH and _is_target(inner, user, scatters))
        for user in users
    )


def _reads_target(module: Module, scatter: Instruction) -> bool:
    return module.computations[_called(scatter, "to_apply")].root.opcode != "parameter"


def _called(line: Instruction, key: str) -> str:
    name = line.attribute(key)
    assert name, line.line
    return name.lstrip("%")


def _size(shape: str) -> int:
    return sum(array.bytes for array in parse_arrays(shape))


def _rows(shape: str) -> int:
    match = re.search(r"\[(\d+)", shape)
    return int(match.group(1)) if match else 0

"""Parses compiled HLO text (XLA's intermediate representation) into computations and instructions.

The parser reads only what traffic counting needs: names, shapes, opcodes, operands, and attributes as text. XLA prints
HLO slightly differently for CPU, GPU and TPU (operands with or without shapes, names with or without `%`, layouts that
contain parentheses); all of these forms are read.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

_HEADER = re.compile(r"^(ENTRY\s+)?%?([\w.\-]+)\s*(?:\(.*\)\s*->.*)?\{$")
_INSTRUCTION = re.compile(r"^(?:ROOT\s+)?%?([\w.\-]+)\s+=\s+(.*)$")
_OPCODE = re.compile(r"([\w\-]+)\(")
_INDEX_COMMENT = re.compile(r"/\*index=\d+\*/")
_ARRAY = re.compile(r"\b(pred|token|opaque|bf16|[suc]\d+|f\d+(?:e\d+m\d+\w*)?)\[([^\]]*)\]")
_DTYPE_BITS = re.compile(r"(?:bf|[suc]|f)(\d+)")
_OP_NAME = re.compile(r'\bop_name="((?:[^"\\]|\\.)*)"')
_OPERAND_NAME = re.compile(r"%?([\w.\-]+)$")
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[()\[\]{},]')


@dataclasses.dataclass(frozen=True)
class ArrayShape:
    """An array's dtype, as HLO prints it, and number of elements."""

    dtype: str
    elements: int

    @property
    def bytes(self) -> int:
        """Size of the array in bytes; two four-bit numbers share a byte."""
        return math.ceil(self.elements * dtype_bits(self.dtype) / 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: without `%`.
      shape: the result's type as printed.
      opcode: `all-reduce`, `fusion`, ...
      operands: the text of each operand as printed.
      attributes: the text after the operands.
      line: the whole line, for error messages.
    """

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    line: str

    @functools.cached_property
    def operand_names(self) -> tuple[str, ...]:
        """Names of the operands, without shapes and `%`."""
        return tuple(m.group(1) for text in self.operands if (m := _OPERAND_NAME.search(text)))

    @property
    def op_name(self) -> str:
        """Name of the JAX operation that the instruction comes from; "" if it has none."""
        return find_op_name(self.attributes)

    def attribute(self, key: str) -> str | None:
        """Returns the value of the attribute `key=...` as text; None if it is absent."""
        match = re.search(rf"(?:^|[\s,]){re.escape(key)}=", self.attributes)
        return next(split_at_commas(self.attributes[match.end() :])) if match else None


@dataclasses.dataclass(frozen=True)
class Computation:
    """A named list of instructions."""

    name: str
    lines: tuple[str, ...]

    @property
    def root(self) -> Instruction:
        """The instruction whose value the computation returns."""
        return next(i for i in self.instructions.values() if i.line.startswith("ROOT "))

    @functools.cached_property
    def instructions(self) -> dict[str, Instruction]:
        """The instructions by name, in the printed order."""
        parsed = (parse_instruction(line) for line in self.lines)
        return {instruction.name: instruction for instruction in parsed}

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """The instructions that read each value, by the value's name."""
        users: dict[str, list[Instruction]] = {}
        for instruction in self.instructions.values():
            for name in instruction.operand_names:
                users.setdefault(name, []).append(instruction)
        return users


@dataclasses.dataclass(frozen=True)
class Module:
    """A compiled program as it runs on one device.

    Attributes:
      ranks: number of devices that run it, partitions times replicas.
      computations: the computations by name.
      entry: name of the computation where the program starts.
    """

    ranks: int
    computations: dict[str, Computation]
    entry: str


def parse_module(text: str) -> Module:
    """Parses the text of a compiled program.

    Args:
      text: one HLO module, as `compiled.as_text()` returns it.

    Returns:
      The module; instructions are parsed on first access.

    Raises:
      ValueError: the text has no `ENTRY`, several modules, or both replicas and partitions.
    """
    header = re.findall(r"^\s*HloModule .*$", text, re.MULTILINE)
    if len(header) > 1:
        raise ValueError(f"{len(header)} HLO modules in one text: give them one at a time")
    sizes = [int(m.group(1)) if (m := re.search(rf"\b{k}=(\d+)", "".join(header))) else 1 for k in _COUNTS]
    if min(sizes) > 1:
        raise ValueError(f"HLO with {sizes[0]} partitions and {sizes[1]} replicas: one of them must be 1")
    computations: dict[str, Computation] = {}
    entry, name, lines = "", "", list[str]()
    for line in text.splitlines():
        line = line.strip()
        if not name:
            match = _HEADER.match(line)
            if match:
                name, lines = match.group(2), []
                entry = name if match.group(1) else entry
        elif line.startswith("}"):
            computations[name] = Computation(name, tuple(lines))
            name = ""
        elif line:
            lines.append(line)
    if not entry:
        raise ValueError("HLO text without an ENTRY computation")
    return Module(math.prod(sizes), computations, entry)


_COUNTS = ("num_partitions", "replica_count")


def parse_instruction(line: str) -> Instruction:
    """Parses one line of a computation.

    Raises:
      ValueError: the line is not `name = shape opcode(operands), attributes`.
    """
    match = _INSTRUCTION.match(_INDEX_COMMENT.sub("", line))
    if not match:
        raise ValueError(f"cannot read this HLO line: {line}")
    name, rest = match.groups()
    shape_end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.find(" ")
    opcode = _OPCODE.match(rest, shape_end + 1) if shape_end > 0 else None
    if not opcode:
        raise ValueError(f"cannot read this HLO line: {line}")
    end = _closing(rest, opcode.end() - 1)
    inner = rest[opcode.end() : end]
    operands = tuple(part.strip() for part in split_at_commas(inner)) if inner.strip() else ()
    return Instruction(name, rest[:shape_end], opcode.group(1), operands, rest[end + 1 :].lstrip(", "), line)


def _closing(text: str, start: int) -> int:
    """Returns the index of the bracket that closes the one at `start`, or the text's length if none does."""
    depth = 0
    for match in _BRACKETS.finditer(text, start):
        token = match.group()
        depth += (token in "([{") - (token in ")]}")
        if depth == 0 and token in ")]}":
            return match.start()
    return len(text)


def split_at_commas(text: str) -> Iterator[str]:
    """Splits at commas outside brackets and quotes; stops at a closing bracket that was never opened."""
    depth, start = 0, 0
    for match in _BRACKETS.finditer(text):
        token = match.group()
        depth += (token in "([{") - (token in ")]}")
        if depth < 0:
            yield text[start : match.start()]
            return
        if token == "," and depth == 0:
            yield text[start : match.start()]
            start = match.end()
    yield text[start:]


def find_op_name(text: str) -> str:
    """Returns the `op_name` in a line's metadata; "" if there is none."""
    match = _OP_NAME.search(text)
    return match.group(1) if match else ""


def dtype_bits(dtype: str) -> int:
    """Returns the number of bits of one element.

    Raises:
      ValueError: the dtype has no size.
    """
    if dtype == "pred":
        return 8
    match = _DTYPE_BITS.match(dtype)
    if not match:
        raise ValueError(f"HLO dtype {dtype} has no size")
    return int(match.group(1))


def parse_arrays(shape: str) -> tuple[ArrayShape, ...]:
    """Parses a printed type, such as `f32[8,16]{1,0}` or a tuple, into its arrays in order.

    Raises:
      ValueError: a size is known at run time only (`f32[<=8]`).
    """
    arrays = []
    for dtype, sizes in _ARRAY.findall(shape):
        if "<=" in sizes or "?" in sizes:
            raise ValueError(f"HLO shape {dtype}[{sizes}] is known at run time only")
        arrays.append(ArrayShape(dtype, math.prod(int(size) for size in sizes.split(",") if size)))
    return tuple(arrays)


def operand_arrays(computation: Computation, instruction: Instruction) -> tuple[tuple[ArrayShape, ...], ...]:
    """Returns the arrays of each operand, taken from the operand's text or from the instruction that defines it.

    Raises:
      ValueError: an operand has no printed shape and no defining instruction.
    """
    found = []
    for text, name in zip(instruction.operands, instruction.operand_names, strict=True):
        arrays = parse_arrays(text.rpartition(" ")[0])
        if not arrays:
            if name not in computation.instructions:
                raise ValueError(f"operand {name} of an unknown shape in this HLO line: {instruction.line}")
            arrays = parse_arrays(computation.instructions[name].shape)
        found.append(arrays)
    return tuple(found)

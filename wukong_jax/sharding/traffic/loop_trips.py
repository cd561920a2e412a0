"""Finds the trip count of a compiled loop, from XLA's annotation or from a counter compared with a constant."""

import re

from wukong_jax.sharding.traffic.hlo_text import Computation, Instruction, Module

_KNOWN = re.compile(r'"?known_trip_count"?\s*[:=]\s*\{"?n"?\s*[:=]\s*"?(\d+)')
_PASSES_ON = frozenset({"copy", "convert", "bitcast", "reshape"})


def find_trip_count(module: Module, computation: Computation, loop: Instruction) -> int:
    """Returns how often a loop's body runs.

    Args:
      module: the program.
      computation: the computation that contains the loop.
      loop: a `while` instruction.

    Returns:
      XLA's `known_trip_count`; without it (XLA:TPU), N of a counter that goes from 0 in steps of 1 while it is < N.

    Raises:
      ValueError: neither is found.
    """
    known = _KNOWN.search(loop.attributes)
    if known:
        return int(known.group(1))
    trips = _counted_trips(module, computation, loop)
    if trips is None:
        raise ValueError(f"a loop that communicates has no trip count known before the run: {loop.line}")
    return trips


def _counted_trips(module: Module, computation: Computation, loop: Instruction) -> int | None:
    condition, body = (module.computations[(loop.attribute(key) or "").lstrip("%")] for key in ("condition", "body"))
    opcode, attributes, operands = _operation(module, condition, condition.root.name)
    if opcode != "compare" or "direction=LT" not in attributes or len(operands) != 2:
        return None
    index, limit = _element(condition, operands[0]), _constant(condition, operands[1])
    start = computation.instructions.get(loop.operand_names[0])
    if index is None or limit is None or start is None or start.opcode != "tuple" or body.root.opcode != "tuple":
        return None
    first = _constant(computation, start.operand_names[index])
    opcode, _, operands = _operation(module, body, body.root.operand_names[index])
    steps = {_constant(body, name) for name in operands}
    counts = {_element(body, name) for name in operands}
    return limit if first == 0 and opcode == "add" and 1 in steps and index in counts else None


def _operation(module: Module, computation: Computation, name: str) -> tuple[str, str, tuple[str, ...]]:
    """Returns opcode, attributes and operands of a value; for a fusion, those of its root."""
    instruction = computation.instructions[name]
    if instruction.opcode != "fusion":
        return instruction.opcode, instruction.attributes, instruction.operand_names
    inner = module.computations[(instruction.attribute("calls") or "").lstrip("%")]
    outer = {i.name: int(i.operands[0]) for i in inner.instructions.values() if i.opcode == "parameter"}
    operands = tuple(instruction.operand_names[outer[n]] if n in outer else n for n in inner.root.operand_names)
    return inner.root.opcode, inner.root.attributes, operands


def _element(computation: Computation, name: str) -> int | None:
    """Returns the index of the loop state's element that a value is; None if it is no such element."""
    instruction = _source(computation, name)
    if instruction is None or instruction.opcode != "get-tuple-element":
        return None
    return int(instruction.attribute("index") or 0)


def _constant(computation: Computation, name: str) -> int | None:
    instruction = _source(computation, name)
    match = re.search(r"\bconstant\((\d+)\)", instruction.line) if instruction else None
    return int(match.group(1)) if match else None


def _source(computation: Computation, name: str) -> Instruction | None:
    """Returns the instruction that defines a value, looking through copies and conversions."""
    instruction = computation.instructions.get(name)
    while instruction is not None and instruction.opcode in _PASSES_ON:
        instruction = computation.instructions.get(instruction.operand_names[0])
    return instruction

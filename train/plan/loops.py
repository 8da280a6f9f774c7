"""How often a loop of a compiled program runs."""

import re
from collections.abc import Mapping

from train.plan.instruction import Instruction

Lines = Mapping[str, Instruction]

# They hand a scalar on.
SAME = ('copy', 'bitcast', 'convert', 'reshape')


def trip_count(computations: Mapping[str, Lines], around: str, loop: Instruction) -> int:
    """As the compiler notes it, or from the counter that the condition compares with a constant; 1 if neither can be
    read.

    Args:
      computations: of the program, instructions by name.
      around: the computation that the loop stands in.
      loop: the instruction.
    """
    if noted := re.search(r'known_trip_count[^}]*?(\d+)', loop.attributes):
        return int(noted[1])
    condition, body = (computations.get(loop.attribute(part).lstrip('%'), {}) for part in ('condition', 'body'))
    compare, new = _root(condition), _root(body)
    if compare is not None and compare.opcode == 'fusion':
        condition = _inlined(computations, compare, condition)
        compare = next((line for line in condition.values() if line.opcode == 'compare'), None)
    if compare is None or compare.opcode != 'compare' or new is None or new.opcode != 'tuple':
        return 1
    counter, limit = (condition[name] for name in compare.operands)
    end, index = _scalar(condition, limit.name), counter.attribute('index')
    if counter.opcode != 'get-tuple-element' or end is None:
        return 1
    step = _step(computations, body, new.operands[int(index)], index) or 1
    first = computations[around].get(loop.operands[0])
    start = _scalar(computations[around], first.operands[int(index)]) if first and first.opcode == 'tuple' else None
    return max(1, -(-(end - (start or 0)) // step))


def _root(lines: Lines) -> Instruction | None:
    return next((line for line in lines.values() if line.root), None)


def _inlined(computations: Mapping[str, Lines], fusion: Instruction, outside: Lines) -> Lines:
    """What is in a fusion, its parameters replaced by what they are outside, and what is outside."""
    inside = computations.get(fusion.attribute('calls').lstrip('%'), {})
    given = {
        name: outside[fusion.operands[int(line.text)]] for name, line in inside.items() if line.opcode == 'parameter'
    }
    return {**outside, **inside, **given}


def _scalar(lines: Lines, name: str) -> int | None:
    line = lines.get(name)
    while line is not None and line.opcode in SAME:
        line = lines.get(line.operands[0])
    if line is None or line.opcode != 'constant' or not re.fullmatch(r'\s*-?\d+\s*', line.text):
        return None
    return int(line.text)


def _step(computations: Mapping[str, Lines], lines: Lines, name: str, index: str) -> int | None:
    """What a trip adds to its counter, the element `index` of what the body is given; None if that cannot be read."""
    line = lines.get(name)
    if line is None:
        return None
    if line.opcode in SAME:
        return _step(computations, lines, line.operands[0], index)
    if line.opcode == 'get-tuple-element':
        return 0 if line.attribute('index') == index else None
    if line.opcode == 'add':
        for one, other in (line.operands, line.operands[::-1]):
            before, added = _step(computations, lines, one, index), _scalar(lines, other)
            if before is not None and added is not None:
                return before + added
    if line.opcode == 'fusion':
        root = _root(computations.get(line.attribute('calls').lstrip('%'), {}))
        if root is not None:
            return _step(computations, _inlined(computations, line, lines), root.name, index)
    return None

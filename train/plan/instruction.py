"""One line of the text of a compiled program."""

import math
import re
from dataclasses import dataclass

SIZES = {'pred': 1.0, 'token': 0.0, 'c64': 8.0, 'c128': 16.0}


@dataclass(frozen=True)
class Array:
    """One array of an instruction's result.

    Attributes:
      dtype: as HLO calls it.
      shape: on one device.
      local: it lies in memory of the core, not in that of the chip.
    """

    dtype: str
    shape: tuple[int, ...]
    local: bool

    @property
    def bytes(self) -> float:
        bits = re.search(r'\d+', self.dtype)
        size = SIZES.get(self.dtype, int(bits[0]) / 8 if bits else 0.0)
        return math.prod(self.shape) * size


@dataclass(frozen=True)
class Instruction:
    """One line.

    Attributes:
      name: without its `%`.
      result: its arrays; of a tuple all that are in it.
      opcode: what it does.
      operands: names.
      text: between the parentheses of its operands.
      attributes: what follows them.
      root: whether it is the result of its computation.
    """

    name: str
    result: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]
    text: str
    attributes: str
    root: bool

    @property
    def bytes(self) -> float:
        """Of its result, in the memory of the chip."""
        return sum(array.bytes for array in self.result if not array.local)

    def attribute(self, name: str) -> str:
        """A name, number or list in braces; '' if it has none."""
        found = re.search(rf'\b{name}=(\{{[^}}]*\}}|[^,\s]+)', self.attributes)
        return found[1] if found else ''

    def numbers(self, name: str) -> list[int]:
        """A list of numbers in braces."""
        return [int(number) for number in re.findall(r'\d+', self.attribute(name))]

    @property
    def layers(self) -> list[str]:
        """The modules that it comes from, with a star for the number of a block, '' outside of all: one, or of
        instructions that the compiler has combined each."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        outer, combined, inner = (found[1] if found else '').partition('/(')
        names = inner.split(':') if ':' in inner else [outer + combined + inner]
        return [_layer(name) for name in names]


def _layer(op_name: str) -> str:
    words = [part for part in op_name.split('/')[:-1] if re.fullmatch(r'[a-z]\w*', part) and part not in STRUCTURE]
    return re.sub(r'_\d+\b', '_*', '/'.join(dict.fromkeys(words)))


# Of an `op_name`, what is no module.
STRUCTURE = {'while', 'body', 'cond', 'closed_call', 'checkpoint', 'rematted_computation', 'shard_map', 'pjit'}


_ARRAY = re.compile(r'\b([a-z]\w*)\[([\d,<= ]*)\](?:\{([^}]*)\})?')


def instruction(row: str) -> Instruction:
    row = re.sub(r'/\*.*?\*/', '', row).strip()
    root = row.startswith('ROOT ')
    name, _, rest = row.removeprefix('ROOT ').partition(' = ')
    end = _closing(rest, 0) + 1 if rest.startswith('(') else rest.index(' ')
    shape, rest = rest[:end], rest[end:].lstrip()
    start = rest.index('(')
    close = _closing(rest, start)
    inner = rest[start + 1 : close]
    opcode = rest[:start]
    # Before the compiler has been at it, names have no mark.
    operands = re.findall(r'%([\w.-]+)' if '%' in row else r'([A-Za-z_][\w.-]*)(?=,|$)', inner)
    named = opcode not in ('parameter', 'constant')
    return Instruction(
        name.lstrip('%'), _arrays(shape), opcode, tuple(operands) if named else (), inner, rest[close + 1 :], root
    )


def _closing(text: str, start: int) -> int:
    """Where the parenthesis closes that opens at `start`."""
    depth = 0
    for found in re.compile('[()]').finditer(text, start):
        depth += 1 if found[0] == '(' else -1
        if not depth:
            return found.start()
    return len(text)


def _arrays(text: str) -> tuple[Array, ...]:
    found = []
    for dtype, shape, layout in _ARRAY.findall(text):
        numbers = tuple(int(size) for size in re.findall(r'\d+', shape))
        found.append(Array(dtype, numbers, bool(re.search(r'S\([1-9]', layout))))
    return tuple(found)

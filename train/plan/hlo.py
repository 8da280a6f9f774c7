"""What a compiled program does on one device, read from its text: collectives, matrix products, traffic of memory.

XLA's own cost analysis counts the body of a loop once, and knows nothing of collectives; here what stands in a loop
counts as often as it runs.
"""

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from train.flops import valid_pairs

SIZES = {'pred': 1.0, 'token': 0.0, 'c64': 8.0, 'c128': 16.0}
KINDS = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'ragged-all-to-all', 'collective-permute',
         'collective-broadcast')  # fmt: skip

# They move no bytes of their own: they name buffers, wait, or run what is counted where it stands.
FREE = {
    'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while', 'call', 'conditional', 'opt-barrier',
    'after-all', 'AllocateBuffer', 'ConcatBitcast', 'partition-id', 'replica-id', 'optimization-barrier', 'add-dependency', 'iota', 'rng-get-and-update-state',
}  # fmt: skip


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
        return [_layer(part) for part in (inner.split(':') if combined and ':' in inner else [outer + combined + inner])]


def _layer(op_name: str) -> str:
    words = [part for part in op_name.split('/')[:-1] if re.fullmatch(r'[a-z]\w*', part) and part not in STRUCTURE]
    return re.sub(r'_\d+\b', '_*', '/'.join(dict.fromkeys(words)))


# Of an `op_name`, what is no module.
STRUCTURE = {'while', 'body', 'cond', 'closed_call', 'checkpoint', 'rematted_computation', 'shard_map', 'pjit', 'core_call'}


@dataclass(frozen=True)
class Collective:
    """One exchange between devices.

    Attributes:
      kind: such as 'all-gather'.
      bytes: of the whole array on one device: of an all-gather what comes out, of a reduce-scatter what goes in.
      count: how often it runs in a step.
      group: numbers of devices that exchange with each other; one such group of several.
      layers: bytes by the module that they come from.
      overlaps: whether the compiler lets it run while the device computes.
    """

    kind: str
    bytes: float
    count: float
    group: tuple[int, ...]
    layers: Mapping[str, float]
    overlaps: bool

    @property
    def sent(self) -> float:
        """Bytes that a device sends each time, in a ring."""
        n = len(self.group)
        if self.kind in ('collective-permute', 'collective-broadcast'):
            return self.bytes
        return (2 if self.kind == 'all-reduce' else 1) * self.bytes * (n - 1) / n


@dataclass(frozen=True)
class Program:
    """A compiled module.

    Attributes:
      computations: instructions by name, in order, by the name of the computation.
      entry: the computation that runs first.
      devices: how many run it together.
    """

    computations: Mapping[str, Mapping[str, Instruction]]
    entry: str
    devices: int
    _fused: set[str] = field(default_factory=set)

    @cached_property
    def runs(self) -> dict[str, float]:
        """How often each computation runs in a step."""
        found: dict[str, float] = {}

        def visit(name: str, times: float) -> None:
            found[name] = found.get(name, 0.0) + times
            for instruction in self.computations[name].values():
                for called, each in self._called(name, instruction):
                    if called in self.computations:
                        visit(called, times * each)

        visit(self.entry, 1.0)
        return found

    def _called(self, computation: str, instruction: Instruction) -> Iterator[tuple[str, float]]:
        opcode = instruction.opcode
        if opcode == 'while':
            trips = self._trips(computation, instruction)
            for part in ('body', 'condition'):
                yield instruction.attribute(part).lstrip('%'), trips
        elif opcode in ('fusion', 'async-start'):
            called = instruction.attribute('calls') or instruction.attribute('called_computation')
            yield called.lstrip('%'), 1.0
        elif opcode == 'call':
            yield instruction.attribute('to_apply').lstrip('%'), 1.0
        elif opcode == 'conditional':
            parts = [instruction.attribute(part) for part in ('branch_computations', 'true_computation', 'false_computation')]
            # Which one runs is not known before: each counts.
            for called in re.findall(r'[\w.-]+', ' '.join(parts)):
                yield called, 1.0

    # ------------------------------------------------------------------ loops

    def _trips(self, computation: str, loop: Instruction) -> float:
        """How often a loop runs: as the compiler notes it, or from its counter; 1 if neither can be read."""
        if noted := re.search(r'known_trip_count[^}]*?(\d+)', loop.attributes):
            return float(noted[1])
        condition = self.computations.get(loop.attribute('condition').lstrip('%'), {})
        body = self.computations.get(loop.attribute('body').lstrip('%'), {})
        compare = next((line for line in condition.values() if line.root), None)
        if compare is not None and compare.opcode == 'fusion':
            compare, condition = self._inside(compare, condition)
        if compare is None or compare.opcode != 'compare' or len(compare.operands) != 2:
            return 1.0
        counter, limit = (condition[name] for name in compare.operands)
        index, end = counter.attribute('index'), self._scalar(condition, limit.name)
        root = next((line for line in body.values() if line.root), None)
        if counter.opcode != 'get-tuple-element' or end is None or root is None or root.opcode != 'tuple':
            return 1.0
        step = self._step(body, root.operands[int(index)], index)
        tuple_ = self.computations[computation].get(loop.operands[0])
        start = self._scalar(self.computations[computation], tuple_.operands[int(index)]) if tuple_ and tuple_.opcode == 'tuple' else 0
        return float(max(1, -(-(end - (start or 0)) // (step or 1))))

    def _inside(self, fusion: Instruction, outside: Mapping[str, Instruction]) -> tuple[Instruction | None, Mapping[str, Instruction]]:
        """The root of a fusion, with its parameters replaced by what they are outside."""
        inside = dict(self.computations.get(fusion.attribute('calls').lstrip('%'), {}))
        for name, line in inside.items():
            if line.opcode == 'parameter':
                inside[name] = outside[fusion.operands[int(line.text)]]
        return next((line for line in inside.values() if line.root and line.opcode == 'compare'), None), inside

    def _scalar(self, lines: Mapping[str, Instruction], name: str) -> int | None:
        line = lines.get(name)
        while line is not None and line.opcode in ('copy', 'bitcast', 'convert', 'reshape'):
            line = lines.get(line.operands[0])
        if line is not None and line.opcode == 'constant' and re.fullmatch(r'-?\d+', line.text.strip()):
            return int(line.text)
        return None

    def _step(self, body: Mapping[str, Instruction], name: str, index: str) -> int | None:
        """What a trip adds to its counter, if that can be read."""
        line = body.get(name)
        if line is None:
            return None
        if line.opcode in ('copy', 'bitcast', 'convert', 'reshape'):
            return self._step(body, line.operands[0], index)
        if line.opcode == 'get-tuple-element':
            return 0 if line.attribute('index') == index else None
        if line.opcode == 'add':
            parts = [self._step(body, operand, index) for operand in line.operands]
            scalars = [self._scalar(body, operand) for operand in line.operands]
            for part, scalar in ((parts[0], scalars[1]), (parts[1], scalars[0])):
                if part is not None and scalar is not None:
                    return part + scalar
        if line.opcode == 'fusion':
            inside = dict(self.computations.get(line.attribute('calls').lstrip('%'), {}))
            root = next((one for one in inside.values() if one.root), None)
            for inner, one in list(inside.items()):
                if one.opcode == 'parameter':
                    inside[inner] = body[line.operands[int(one.text)]]
            return self._step({**body, **inside}, root.name, index) if root is not None else None
        return None

    # ------------------------------------------------------------------ what is counted

    @cached_property
    def collectives(self) -> list[Collective]:
        """All exchanges between devices."""
        found: dict[str, Collective] = {}
        for name, times in self.runs.items():
            for line in self.computations[name].values():
                kind = line.opcode.removesuffix('-start')
                if kind not in KINDS:
                    continue
                group = self._group(line)
                if len(group) < 2:
                    continue
                if kind == 'all-reduce' and name.startswith('all-reduce-scatter'):
                    kind = 'reduce-scatter'
                # The parts of an exchange that is spread over several fusions share its channel.
                channel = line.attribute('channel_id')
                overlaps = line.opcode.endswith('-start') or 'async_collective' in line.attributes + name
                size = self._exchanged(line, kind, len(group))
                layers = self._layers(line, self.computations[name], size)
                collective = Collective(kind, size, times, group, layers, overlaps)
                found.setdefault(f'{kind} {channel or line.name}', collective)
        return list(found.values())

    def _layers(self, line: Instruction, lines: Mapping[str, Instruction], size: float) -> dict[str, float]:
        """The bytes of a collective by the modules of its operands."""
        operands = [lines[name] for name in line.operands if name in lines]
        total = sum(array.bytes for operand in operands for array in operand.result)
        named = line.layers if len(line.layers) == len(operands) else [line.layers[0]] * len(operands)
        found: dict[str, float] = {}
        for operand, layer in zip(operands, named, strict=True):
            if len(operands) > 1 and len(operand.layers) == 1 and operand.layers[0]:
                layer = operand.layers[0]
            part = sum(array.bytes for array in operand.result) / total if total else 1 / len(operands)
            found[layer] = found.get(layer, 0.0) + part * size
        return found

    def _exchanged(self, line: Instruction, kind: str, n: int) -> float:
        total = sum(array.bytes for array in line.result)
        if kind == 'reduce-scatter' and line.opcode != 'all-reduce':
            return total * n
        if line.opcode.endswith('-start'):
            if kind == 'all-gather':  # what goes in and what comes out
                return total * n / (n + 1)
            if kind == 'collective-permute':
                return max((array.bytes for array in line.result), default=0.0)
        return total

    def _group(self, line: Instruction) -> tuple[int, ...]:
        if 'source_target_pairs' in line.attributes:
            return _ring(line)
        return _first_group(line.attributes, self.devices)

    @cached_property
    def flops(self) -> float:
        """Of all matrix products and convolutions of one device in a step; a multiplication and an addition are two."""
        return sum(
            times * self._products(name, line)
            for name, times in self.runs.items()
            for line in self.computations[name].values()
        )

    def _products(self, computation: str, line: Instruction) -> float:
        lines = self.computations[computation]
        if line.opcode == 'dot':
            left = lines[line.operands[0]].result[0].shape
            return 2.0 * math.prod(line.result[0].shape) * math.prod(left[i] for i in line.numbers('lhs_contracting_dims'))
        if line.opcode == 'convolution':
            return _convolution(line, *(lines[operand].result[0].shape for operand in line.operands))
        return 0.0

    @cached_property
    def traffic(self) -> float:
        """Bytes that one device reads from its memory and writes to it in a step: what goes into each operation and
        comes out of it, a fusion being one."""
        fused = {
            line.attribute('calls').lstrip('%')
            for lines in self.computations.values()
            for line in lines.values()
            if line.opcode == 'fusion'
        }
        return sum(
            times * self._moved(self.computations[name], line)
            for name, times in self.runs.items()
            if name not in fused
            for line in self.computations[name].values()
        )

    def _moved(self, lines: Mapping[str, Instruction], line: Instruction) -> float:
        target = line.attribute('custom_call_target').strip('"')
        if line.opcode in FREE or target in FREE or line.opcode.endswith('-done'):
            return 0.0
        if line.opcode in ('dynamic-slice', 'slice', 'gather'):
            return 2 * line.bytes
        if line.opcode.endswith('-start') and line.opcode not in ('copy-start', 'slice-start'):
            return line.bytes
        if line.opcode in ('copy-start', 'slice-start'):
            whole = [array.bytes for array in line.result if not array.local and array.shape]
            inside = [array.bytes for array in line.result if array.local and array.shape]
            return min([*inside, *whole], default=0.0) * len(whole) if whole else 0.0
        if line.opcode == 'dynamic-update-slice':
            return 2 * lines[line.operands[1]].bytes if line.operands[1] in lines else line.bytes
        if line.opcode == 'fusion':
            return self._fusion(lines, line)
        return line.bytes + sum(lines[name].bytes for name in line.operands if name in lines)

    def _fusion(self, lines: Mapping[str, Instruction], line: Instruction) -> float:
        """Of what a fusion takes a slice of, or writes a slice into, only the slice is moved."""
        inside = self.computations.get(line.attribute('calls').lstrip('%'), {})
        users: dict[str, list[Instruction]] = {}
        for one in inside.values():
            for operand in one.operands:
                users.setdefault(operand, []).append(one)
        total, updated = 0.0, False
        for one in inside.values():
            if one.opcode != 'parameter' or int(one.text) >= len(line.operands):
                continue
            given = lines.get(line.operands[int(one.text)])
            if given is None or not given.bytes:
                continue
            used = users.get(one.name, [])
            if used and all(user.opcode in ('dynamic-slice', 'slice', 'gather') for user in used):
                total += sum(math.prod(user.result[0].shape) for user in used) * given.bytes / max(
                    1, math.prod(given.result[0].shape)
                )
            elif used and all(user.opcode == 'dynamic-update-slice' and user.operands[0] == one.name for user in used):
                updated = True
                for user in used:
                    total += 2 * sum(array.bytes for array in inside[user.operands[1]].result)
            else:
                total += given.bytes
        return total if updated else total + line.bytes


# ---------------------------------------------------------------------- reading the text

_ARRAY = re.compile(r'\b([a-z]\w*)\[([\d,<= ]*)\](?:\{([^}]*)\})?')


def read(text: str) -> Program:
    """A compiled module from `compiled.as_text()`."""
    devices = re.search(r'num_partitions=(\d+)', text[: text.find('\n')])
    computations: dict[str, dict[str, Instruction]] = {}
    entry, lines = '', {}
    for row in text.splitlines():
        if row.endswith('{') and not row.startswith(' '):
            head = re.match(r'(ENTRY )?%?([\w.-]+)', row)
            if head is None or row.startswith('HloModule'):
                continue
            lines = computations.setdefault(head[2], {})
            entry = head[2] if head[1] else entry
        elif ' = ' in row and row.startswith(' '):
            line = _instruction(row)
            lines[line.name] = line
    return Program(computations, entry, int(devices[1]) if devices else 1)


def _instruction(row: str) -> Instruction:
    row = re.sub(r'/\*.*?\*/', '', row).strip()
    root = row.startswith('ROOT ')
    name, _, rest = row.removeprefix('ROOT ').partition(' = ')
    end = _closing(rest, 0) + 1 if rest.startswith('(') else rest.index(' ')
    shape, rest = rest[:end], rest[end:].lstrip()
    start = rest.index('(')
    close = _closing(rest, start)
    inner = rest[start + 1 : close]
    return Instruction(
        name.lstrip('%'), _arrays(shape), rest[:start], tuple(re.findall(r'%([\w.-]+)', inner)), inner,
        rest[close + 1 :], root,
    )  # fmt: skip


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


def _ring(line: Instruction) -> tuple[int, ...]:
    """The devices that a permutation connects with the first one."""
    found = re.search(r'source_target_pairs=\{(.*?)\}\}', line.attributes)
    pairs = [tuple(map(int, pair)) for pair in re.findall(r'(\d+),(\d+)', found[1] if found else '')]
    follow = dict(pairs)
    if not pairs:
        return ()
    ring = [pairs[0][0]]
    while (after := follow.get(ring[-1])) is not None and after not in ring:
        ring.append(after)
    return tuple(ring)


def _first_group(attributes: str, devices: int) -> tuple[int, ...]:
    """The first of the groups in any of the forms in which HLO writes them; all devices if none are named."""
    listed = re.search(r'replica_groups=\{\{([\d,]*)\}', attributes)
    if listed:
        return tuple(int(number) for number in listed[1].split(',') if number)
    tiled = re.search(r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', attributes)
    if tiled:
        _, size = (int(number) for number in tiled[1].split(','))
        shape = [int(number) for number in tiled[2].split(',')]
        order = [int(number) for number in tiled[3].split(',')] if tiled[3] else list(range(len(shape)))
        return tuple(itertools.islice(_transposed(shape, order), size))
    meshed = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes)
    if meshed:
        axes = [(name, int(size)) for name, size in re.findall(r"'([^']*)'=(\d+)", meshed[1])]
        chosen = {name: part for name, part in re.findall(r"'([^']*)'(:\(\d+\)\d+)?", meshed[2])}
        return tuple(sorted(_along(axes, chosen)))
    return tuple(range(devices))


def _transposed(shape: Sequence[int], order: Sequence[int]) -> Iterator[int]:
    strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    for index in itertools.product(*(range(shape[axis]) for axis in order)):
        yield sum(i * strides[axis] for i, axis in zip(index, order, strict=True))


def _along(axes: Sequence[tuple[str, int]], chosen: Mapping[str, str]) -> Iterator[int]:
    """Numbers of the devices along the chosen axes, `:(before)size` being a part of one."""
    offsets, stride = [0], 1
    for name, size in reversed(axes):
        if name in chosen:
            part = re.match(r':\((\d+)\)(\d+)', chosen[name])
            before, many = (int(part[1]), int(part[2])) if part else (1, size)
            each = stride * size // (before * many)
            offsets = [offset + i * each for offset in offsets for i in range(many)]
        stride *= size
    yield from offsets


def _convolution(line: Instruction, left: Sequence[int], right: Sequence[int]) -> float:
    """As XLA counts: padding and holes cost nothing."""
    inputs, kernel, outputs = re.split(r'_|->', line.attribute('dim_labels'))
    result = line.result[0].shape
    window = re.search(r'window=\{([^}]*)\}', line.attributes)
    parts = dict(part.split('=') for part in window[1].split()) if window else {}
    spatial = sorted(set(inputs) - set('bf'))

    def each(name: str, otherwise: str) -> list[str]:
        return parts[name].split('x') if name in parts else [otherwise] * len(spatial)

    strides, holes, spread = each('stride', '1'), each('rhs_dilate', '1'), each('lhs_dilate', '1')
    pads = each('pad', '0_0')
    positions = math.prod(
        valid_pairs(
            left[inputs.index(axis)],
            result[outputs.index(axis)],
            right[kernel.index(axis)],
            stride=int(strides[i]),
            pad=int(pads[i].partition('_')[0]),
            gap=int(spread[i]),
            hole=int(holes[i]),
        )
        for i, axis in enumerate(spatial)
    )
    features, batch = right[kernel.index('i')], result[outputs.index('b')]
    return 2.0 * positions * features * result[outputs.index('f')] * batch

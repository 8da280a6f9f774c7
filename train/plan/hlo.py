"""What a compiled program does on one device, read from its text: collectives, matrix products, traffic of memory.

XLA's own cost analysis counts the body of a loop once, and knows nothing of collectives; here what stands in a loop
counts as often as it runs.
"""

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from train.plan.instruction import Instruction, instruction
from train.plan.loops import trip_count
from vit_flax.flops import valid_pairs

KINDS = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'ragged-all-to-all', 'collective-permute',
         'collective-broadcast')  # fmt: skip

# They move no bytes of their own: they name buffers, wait, or run what is counted where it stands.
FREE = {
    'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while', 'call', 'conditional', 'opt-barrier',
    'after-all', 'AllocateBuffer', 'ConcatBitcast', 'partition-id', 'replica-id', 'add-dependency', 'iota',
    'rng-get-and-update-state',
}  # fmt: skip


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

    @cached_property
    def runs(self) -> dict[str, float]:
        """How often each computation runs in a step."""
        found: dict[str, float] = {}

        def visit(name: str, times: float) -> None:
            found[name] = found.get(name, 0.0) + times
            for line in self.computations[name].values():
                for called, each in self._called(name, line):
                    if called in self.computations:
                        visit(called, times * each)

        visit(self.entry, 1.0)
        return found

    def _called(self, computation: str, instruction: Instruction) -> Iterator[tuple[str, float]]:
        opcode = instruction.opcode
        if opcode == 'while':
            trips = trip_count(self.computations, computation, instruction)
            for part in ('body', 'condition'):
                yield instruction.attribute(part).lstrip('%'), trips
        elif opcode in ('fusion', 'async-start'):
            called = instruction.attribute('calls') or instruction.attribute('called_computation')
            yield called.lstrip('%'), 1.0
        elif opcode == 'call':
            yield instruction.attribute('to_apply').lstrip('%'), 1.0
        elif opcode == 'conditional':
            names = ('branch_computations', 'true_computation', 'false_computation')
            parts = [instruction.attribute(name) for name in names]
            # Which one runs is not known before: each counts.
            for called in re.findall(r'[\w.-]+', ' '.join(parts)):
                yield called, 1.0

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
                layers = self._layers(line, name, size)
                collective = Collective(kind, size, times, group, layers, overlaps)
                found.setdefault(f'{kind} {channel or line.name}', collective)
        return list(found.values())

    def _layers(self, line: Instruction, computation: str, size: float) -> dict[str, float]:
        """The bytes of a collective by the modules of its operands."""
        lines = self.computations[computation]
        operands = [lines[name] for name in line.operands if name in lines]
        named = line.layers if len(line.layers) == len(operands) else [line.layers[0]] * len(operands)
        if computation in self._fusions:  # the collective inside a fusion has no name of its own
            around, fusion = self._fusions[computation]
            outside = [around.get(fusion.operands[int(one.text)]) for one in operands if one.opcode == 'parameter']
            if len(outside) == len(operands):
                operands = [
                    _maker(around, one) if one else inside for one, inside in zip(outside, operands, strict=True)
                ]
            named = [layer or fusion.layers[0] for layer in named]
        total = sum(array.bytes for operand in operands for array in operand.result)
        found: dict[str, float] = {}
        for operand, layer in zip(operands, named, strict=True):
            if len(operands) > 1 and len(operand.layers) == 1 and operand.layers[0]:
                layer = operand.layers[0]
            part = sum(array.bytes for array in operand.result) / total if total else 1 / len(operands)
            found[layer] = found.get(layer, 0.0) + part * size
        return found

    @cached_property
    def _fusions(self) -> dict[str, tuple[Mapping[str, Instruction], Instruction]]:
        """By the computation of a fusion: the instructions around it, and the fusion itself."""
        return {
            line.attribute('calls').lstrip('%'): (lines, line)
            for lines in self.computations.values()
            for line in lines.values()
            if line.opcode == 'fusion'
        }

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
            return (
                2.0 * math.prod(line.result[0].shape) * math.prod(left[i] for i in line.numbers('lhs_contracting_dims'))
            )
        if line.opcode == 'convolution':
            return _convolution(line, *(lines[operand].result[0].shape for operand in line.operands))
        return 0.0

    @cached_property
    def traffic(self) -> float:
        """Bytes that one device reads from its memory and writes to it in a step: what goes into each operation and
        comes out of it, a fusion being one."""
        return sum(
            times * self._moved(self.computations[name], line)
            for name, times in self.runs.items()
            if name not in self._fusions
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
                total += (
                    sum(math.prod(user.result[0].shape) for user in used)
                    * given.bytes
                    / max(1, math.prod(given.result[0].shape))
                )
            elif used and all(user.opcode == 'dynamic-update-slice' and user.operands[0] == one.name for user in used):
                updated = True
                for user in used:
                    total += 2 * sum(array.bytes for array in inside[user.operands[1]].result)
            else:
                total += given.bytes
        return total if updated else total + line.bytes


# ---------------------------------------------------------------------- reading the text


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
            line = instruction(row)
            lines[line.name] = line
    return Program(computations, entry, int(devices[1]) if devices else 1)


def _maker(lines: Mapping[str, Instruction], line: Instruction) -> Instruction:
    """What has computed a result that is handed on without a name."""
    while not line.layers[0] and line.opcode not in ('fusion', 'parameter') and line.operands:
        before = lines.get(line.operands[0])
        if before is None:
            break
        line = before
    return line


def _ring(line: Instruction) -> tuple[int, ...]:
    """The devices that a permutation connects with the first one."""
    found = re.search(r'source_target_pairs=\{(.*?)\}\}', line.attributes)
    written = re.findall(r'(\d+),(\d+)', found[1] if found else '')
    pairs = [(int(start), int(end)) for start, end in written]
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
    meshed = re.search(r'replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}', attributes)
    if meshed:
        axes = [(name, int(size)) for name, size in re.findall(r"'([^']*)'=(\d+)", meshed[1])]
        chosen = dict(re.findall(r"'([^']*)'(:\(\d+\)\d+)?", meshed[2]))
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

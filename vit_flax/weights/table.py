"""The correspondence between a model's variables and a PyTorch state dict.

Tracing the model shapes-only tells which module owns each variable. A path is then translated from
the root down: each module's `torch_names` rows, its own and those of its base classes, name its
children on the other side (`{i}` stands for any number, in torch's name also as `{2*i+1}`; a row may
reach several levels down and wins over the child's own; a pair of a name and rows gives the child
other rows than its class has), a child without a row keeps its name, and the leaf follows from what
Flax calls it. A row for `block_{i}` also names `block`, the scanned stack of these blocks, whose
leaves are joined along a leading axis: a number that only torch's name has is a layer of a stack.
Where torch has one array under several names, or a whole module, a module's `torch_ties` gives the
others.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict

from vit_flax.blocks.weight_ops import KEEP, Op, kernel_op
from vit_flax.taps import Call, watch

Path = tuple[str, ...]
Rows = Mapping[Path, Mapping[str, Any]]

# A number in torch's name: `{i}`, `{2*i}`, `{4*i+3}`.
PLACE = re.compile(r'\{(?:(\d+)\*)?(\w+)(?:\+(\d+))?\}')

# Flax's name of a leaf is unambiguous where torch's `weight` is not.
LEAVES = {
    'kernel': 'weight',
    'scale': 'weight',
    'embedding': 'weight',
    'mean': 'running_mean',
    'var': 'running_var',
    'count': 'num_batches_tracked',
}


@dataclass(frozen=True)
class Entry:
    """One Flax variable and its torch counterparts.

    Attributes:
      path: from the collection to the leaf.
      shape: of the Flax array.
      names: torch's names; several if the Flax array stacks layers.
      stack: leading axes of the Flax array that run over `names`, row-major.
      op: for one layer's array.
      ties: further names that torch's state dict has for the same array.
    """

    path: Path
    shape: tuple[int, ...]
    names: tuple[str, ...]
    stack: tuple[int, ...]
    op: Op
    ties: tuple[str, ...] = ()

    @property
    def torch_names(self) -> tuple[str, ...]:
        """All of torch's names."""
        return self.names + self.ties

    @property
    def torch_shape(self) -> tuple[int, ...]:
        return self.op.to_torch(np.empty(self.shape[len(self.stack) :], np.bool_)).shape

    def to_flax(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        layers = [self.op.to_flax(arrays[name]) for name in self.names]
        return np.stack(layers).reshape(self.shape) if self.stack else layers[0]

    def to_torch(self, array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        layers = array.reshape(len(self.names), *self.shape[len(self.stack) :]) if self.stack else [array]
        for name, layer in zip(self.names, layers, strict=True):
            # a copy of its own, writable, as torch.from_numpy wants it
            yield name, np.array(self.op.to_torch(layer), order='C')
        for index, name in enumerate(self.ties):
            yield name, np.array(self.op.to_torch(layers[index % len(layers)]), order='C')


@dataclass(frozen=True)
class Table:
    """All entries of a model, and what only torch's state dict holds (`constants`)."""

    entries: tuple[Entry, ...]
    constants: Mapping[str, np.ndarray]
    modules: Mapping[Path, str]


def build_table(model: nn.Module, *example_inputs: Any, **kwargs: Any) -> Table:
    """Traces the model without computing anything and names its variables in torch's words."""
    modules: dict[Path, nn.Module] = {}

    def remember(call: Call) -> None:
        modules.setdefault(call.path, call.module)

    with watch(before=remember):
        shapes = jax.eval_shape(lambda *inputs: model.init(jax.random.key(0), *inputs, **kwargs), *example_inputs)
    rows = {path: torch_names(type(module)) | own_rows(module) for path, module in modules.items()}

    ties: dict[Path, tuple[str, ...]] = {}
    for path, module in modules.items():
        prefix, _ = _translate(rows, path)
        for name, make in getattr(type(module), 'torch_ties', {}).items():
            ties[(*path, *name.split('/'))] = tuple(f'{prefix}.{tie}'.strip('.') for tie in make(module))

    entries = []
    depths: dict[str, tuple[int, ...]] = {}
    for path, leaf in flatten_dict(shapes).items():
        pattern, op = _translate(rows, path[1:])
        ends = [match.end() for match in PLACE.finditer(pattern)]
        stack = leaf.shape[: len(ends)]
        depths |= {pattern[:end]: stack[: i + 1] for i, end in enumerate(ends)}
        if op is None:
            op = kernel_op(len(leaf.shape) - len(stack)) if path[-1] == 'kernel' else KEEP
        names = _expand(pattern, stack)
        entries.append(Entry(path, leaf.shape, names, stack, op, _tied(path[1:], names, ties, rows)))

    constants = {}
    for path, module in modules.items():
        prefix, _ = _translate(rows, path)
        for name, make in getattr(type(module), 'torch_only', {}).items():
            value = make(module)
            if value is not None:
                pattern = f'{prefix}.{name}'.strip('.')
                last = max((match.end() for match in PLACE.finditer(pattern)), default=0)
                for full_name in _expand(pattern, depths[pattern[:last]] if last else ()):
                    constants[full_name] = np.asarray(value)
    return Table(tuple(entries), constants, {path: _translate(rows, path)[0] for path in modules})


def torch_names(cls: type) -> dict[str, Any]:
    """The rows of a class and of those that it derives from; its own come before theirs."""
    return {key: target for base in reversed(cls.__mro__) for key, target in vars(base).get('torch_names', {}).items()}


def own_rows(module: nn.Module) -> dict[str, Any]:
    """The rows that depend on a module's attributes, such as the number of a stack's first layer."""
    return module.torch_rows() if hasattr(module, 'torch_rows') else {}


def _tied(path: Path, names: tuple[str, ...], ties: Mapping[Path, tuple[str, ...]], rows: Rows) -> tuple[str, ...]:
    """Further names of a variable: its own ties, and those of the modules that it stands in."""
    found = list(ties.get(path, ()))
    for length in range(1, len(path)):
        module, _ = _translate(rows, path[:length])
        for tie in ties.get(path[:length], ()):
            found += [tie + name.removeprefix(module) for name in names]
    return tuple(found)


def _translate(rows: Rows, path: Path) -> tuple[str, Op | None]:
    """Torch's dotted name of a module or variable, numbers that only torch has left as `{i}`."""
    done, name, op = 0, [], None
    given: Mapping[str, Any] | None = None
    while done < len(path):
        here, rest = path[:done], path[done:]
        candidates = sorted((given or rows.get(here, {})).items(), key=lambda row: -row[0].count('/'))
        for key, target in candidates:
            length = key.count('/') + 1
            match = re.fullmatch(_pattern(key), '/'.join(rest[:length]))
            if match:
                target, detail = (target, None) if isinstance(target, str) else target
                given, op = (detail, None) if isinstance(detail, Mapping) else (None, detail)
                numbers = {letter: number for letter, number in match.groupdict().items() if number}
                name.append(_fill(target, numbers))
                done += length
                break
        else:
            is_leaf = done == len(path) - 1 and path not in rows
            name.append(LEAVES.get(rest[0], rest[0]) if is_leaf else rest[0])
            given = None
            done += 1
    return '.'.join(filter(None, name)), op


def _fill(target: str, numbers: Mapping[str, str]) -> str:
    """`layers.{2*i+1}` and i = 3 to `layers.7`; a letter without a number stays."""
    return PLACE.sub(lambda match: _number(match, numbers[match[2]]) if match[2] in numbers else match[0], target)


def _number(match: re.Match, value: str) -> str:
    factor, _, offset = match.groups()
    return str(int(factor or 1) * int(value) + int(offset or 0))


def _pattern(key: str) -> str:
    pattern = re.sub(r'\\\{(\w+)\\\}', r'(?P<\1>[0-9]+)', re.escape(key))
    return re.sub(r'\bblock_(\(\?P<\w+>\[0-9\]\+\))(?=/|$)', r'block(?:_\1)?', pattern)


def _expand(pattern: str, stack: tuple[int, ...]) -> tuple[str, ...]:
    """`layers.{i}.weight` and (2,) to `layers.0.weight`, `layers.1.weight`."""
    names = []
    for index in itertools.product(*map(range, stack)):
        numbers = map(str, index)

        def fill(match: re.Match, numbers: Iterator[str] = numbers) -> str:
            return _number(match, next(numbers))

        names.append(PLACE.sub(fill, pattern))
    return tuple(names)

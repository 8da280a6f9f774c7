"""Tables of names: what another source calls a model's arrays, and how it lays them out, both ways.

A row is data and has an inverse. "Ours" are the names and layouts of the model's own source, those of
`Module.torch_names`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from einops import rearrange

from vit_flax.blocks.weight_ops import KEEP, Op
from vit_flax.printing import shown

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Rearrange:
    """An einops pattern `theirs -> ours`, with the lengths of axes that it splits."""

    pattern: str
    lengths: tuple[tuple[str, int], ...] = ()

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        return rearrange(array, self.pattern, **dict(self.lengths))

    def to_flax(self, array: np.ndarray) -> np.ndarray:
        theirs, ours = self.pattern.split(' -> ')
        return rearrange(array, f'{ours} -> {theirs}', **dict(self.lengths))


@dataclass(frozen=True)
class Row:
    """One array, or all arrays of one module.

    Attributes:
      theirs: the name, or its beginning up to a `.` or `/`; `{i}` stands for any number. Several names are parts that
        are joined along the first axis, such as those of queries, keys and values.
      ours: likewise.
      op: what is done with each part of theirs, `theirs <-> ours`: its `to_torch` gives ours.
      shares: how the parts on the side that has several share the first axis; equally if left out.
    """

    theirs: str | tuple[str, ...]
    ours: str | tuple[str, ...]
    op: Op = KEEP
    shares: tuple[int, ...] = ()

    @cached_property
    def sides(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The names of both sides as tuples."""
        theirs, ours = ((side,) if isinstance(side, str) else side for side in (self.theirs, self.ours))
        return theirs, ours


@cache
def _regex(pattern: str) -> re.Pattern[str]:
    """A name that begins with a pattern; its groups are the numbers, and `rest`, what follows."""
    text = re.sub(r'\\\{(\w+)\\\}', r'(?P<\1>[0-9]+)', re.escape(pattern))
    return re.compile(text + (r'(?P<rest>([./].*)?)' if pattern else '(?P<rest>.*)'), re.DOTALL)


def match(pattern: str, name: str) -> dict[str, str] | None:
    """The numbers of a name that begins with a pattern, and its `rest`; None if it does not."""
    found = _regex(pattern).fullmatch(name)
    return found.groupdict(default='') if found else None


def fill(pattern: str, groups: Mapping[str, str]) -> str:
    """The name that a pattern is for these numbers and this rest."""
    return re.sub(r'\{(\w+)\}', lambda letter: groups[letter[1]], pattern) + groups['rest']


def to_ours(rows: Sequence[Row], arrays: Arrays) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Arrays in our names, and those that no row has.

    Raises:
      ValueError: some parts of an array are there and others not, or axes do not fit.
    """
    return _translate(rows, arrays, 0)


def to_theirs(rows: Sequence[Row], arrays: Arrays) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The inverse of `to_ours`."""
    return _translate(rows, arrays, 1)


def _translate(rows: Sequence[Row], arrays: Arrays, side: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    groups: dict[tuple[Any, ...], dict[int, str]] = {}
    rest = {}
    for name in arrays:
        found = _find(rows, name, side)
        if found is None:
            rest[name] = arrays[name]
        else:
            row, part, numbers = found
            groups.setdefault((row, *sorted(numbers.items())), {})[part] = name
    done: dict[str, np.ndarray] = {}
    for (row, *items), names in groups.items():
        numbers, sources, targets = dict(items), row.sides[side], row.sides[1 - side]
        if len(names) < len(sources):
            lacking = [fill(sources[part], numbers) for part in range(len(sources)) if part not in names]
            raise ValueError(f'the state dict holds {shown(names[min(names)])} without {shown(", ".join(lacking))}')
        parts = [arrays[names[part]] for part in range(len(sources))]
        if side == 0:
            parts = [_apply(row.op.to_torch, name, part) for name, part in zip(names.values(), parts, strict=True)]
        if len({part.shape[1:] for part in parts}) > 1:
            shapes = ', '.join(f'{shown(names[part])} {arrays[names[part]].shape}' for part in sorted(names))
            raise ValueError(f'the state dict holds parts of one array that do not fit each other: {shapes}')
        whole = np.concatenate(parts) if len(parts) > 1 else parts[0]
        pieces = _split(whole, len(targets), row.shares) if len(targets) > 1 else [whole]
        if side == 1:
            pieces = [_apply(row.op.to_flax, names[0], piece) for piece in pieces]
        for target, piece in zip(targets, pieces, strict=True):
            name = fill(target, numbers)
            if name in done:
                raise ValueError(f'the state dict holds {shown(name)} twice, under names of several releases')
            done[name] = piece
    return done, rest


def _find(rows: Sequence[Row], name: str, side: int) -> tuple[Row, int, dict[str, str]] | None:
    for row in rows:
        for part, pattern in enumerate(row.sides[side]):
            numbers = match(pattern, name)
            if numbers is not None:
                return row, part, numbers
    return None


def _split(array: np.ndarray, number: int, shares: Sequence[int]) -> list[np.ndarray]:
    weights = shares or (1,) * number
    ends = np.cumsum(weights)[:-1] * (len(array) // sum(weights))
    return np.split(array, ends)


def _apply(op: Callable[[np.ndarray], np.ndarray], name: str, array: np.ndarray) -> np.ndarray:
    try:
        return op(array)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f'{shown(name)} of shape {array.shape} does not fit: {shown(str(error), 200)}') from error


def renamed(rows: Sequence[Row], name: str) -> str:
    """What an array's name becomes on our side; of several parts that of the whole."""
    found = _find(rows, name, 0)
    return name if found is None else fill(found[0].sides[1][0], found[2])

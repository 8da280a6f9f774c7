"""Plain text: tables, and long lists of names folded."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


def table(rows: Sequence[Sequence[str]], align: str = '') -> str:
    """Columns as wide as they must be, two spaces apart.

    Args:
      rows: of equal length.
      align: a letter for each column, `<` or `>`; `<` where there is none.
    """
    if not rows:
        return ''
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    align = align.ljust(len(widths), '<')
    lines = (
        '  '.join(f'{cell:{side}{width}}' for cell, side, width in zip(row, align, widths, strict=True)) for row in rows
    )
    return '\n'.join(line.rstrip() for line in lines) + '\n'


def columns(text: str, width: int) -> list[str]:
    """A text in lines of at most this width."""
    lines: list[str] = []
    line = ''
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            lines, line = [*lines, line], word
        else:
            line = f'{line} {word}'.strip()
    return [*lines, line]


@dataclass
class Folded:
    """Names that differ in numbers alone: `layers.{0..11}.0.to_qkv.weight`."""

    name: str
    value: Any
    count: int


def fold(values: Mapping[str, Any]) -> list[Folded]:
    """Folds names with equal values, one number after the other from the left.

    `{0..11}` stands for all numbers from 0 to 11, `{0,2}` for these two.
    """
    # a name of many numbers, or of a number of many digits, is no layer of a model
    groups = [(tuple(re.split(r'([0-9]{1,18})', name, maxsplit=16)), value, 1) for name, value in values.items()]
    deepest = max((len(parts) for parts, _, _ in groups), default=0)
    for place in range(1, deepest, 2):
        joined: dict[Any, tuple[list[str], int]] = {}
        for parts, value, count in groups:
            if len(parts) > place:
                key = parts[:place], parts[place + 1 :], value
                numbers, total = joined.setdefault(key, ([], 0))
                joined[key] = [*numbers, parts[place]], total + count
            else:
                joined[parts, None, value] = [''], count
        groups = [
            (before if after is None else (*before, _range(numbers), *after), value, count)
            for (before, after, value), (numbers, count) in joined.items()
        ]
    return [Folded(''.join(parts), value, count) for parts, value, count in groups]


def _range(numbers: Sequence[str]) -> str:
    if len(numbers) == 1:
        return numbers[0]
    values = sorted(map(int, numbers))
    if values == [*range(values[0], values[-1] + 1)]:
        return f'{{{values[0]}..{values[-1]}}}'
    return f'{{{",".join(map(str, values))}}}'

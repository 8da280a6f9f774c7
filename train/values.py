"""Whether the values of a config have the types that its dataclasses say, and are in proportion."""

import dataclasses
import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from train.errors import UserError
from train.places import shortened

# Counters on the device, and sizes of arrays, have 32 bits; so has the state of a seed, without a sign.
LARGEST = 2**31 - 1
LARGEST_SEED = 2**32 - 1
# Numbers on the device are float32.
HIGHEST = float(np.finfo(np.float32).max)
# Each of so many is a loop in Python, a process, a thread or an image in memory, by the last word of its name.
AT_MOST = {
    'depth': 1000,
    'layers': 1000,
    'views': 1000,
    'randaugment': 100,
    'threads': 1024,
    'workers': 1024,
    'prefetch': 10_000,
    'classes': 10**7,
    'batch_size': 2**20,
    'frames': 10_000,
    'profile': 1000,
    'size': 2**15,
    'fsdp_min_size': LARGEST,
    'channels': 2**15,
}


def check_values(part: Any, prefix: str = '') -> None:
    """Raises a `UserError` that names the first field of a dataclass, or of those in it, whose value has another type
    than the field or is out of all proportion."""
    for key, value, hint in _fields(part):
        if dataclasses.is_dataclass(value):
            check_values(value, f'{prefix}{key}.')
        else:
            check_value(f'{prefix}{key}', value, hint)


def check_value(key: str, value: Any, hint: Any) -> None:
    """The same for one value."""
    if not fits(value, hint):
        raise UserError(f'{key}={_shown(value)} must be {described(hint)}')
    for number in _numbers(value):
        if isinstance(number, float) and not abs(number) <= HIGHEST:
            raise UserError(f'{key}={_shown(value)} must be a finite number, of at most {HIGHEST:.3g}')
        name = key.rpartition('.')[2]
        most = LARGEST_SEED if key == 'seed' else AT_MOST.get(name, AT_MOST.get(name.rpartition('_')[2], LARGEST))
        if isinstance(number, int) and abs(number) > most:
            raise UserError(f'{key}={_shown(value)} must be at most {most}')


def fits(value: Any, hint: Any) -> bool:
    """Whether a value has the type; whole numbers are numbers, and True is none."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return any(value == part and type(value) is type(part) for part in parts)
    if origin is tuple and Ellipsis not in parts:
        return (
            isinstance(value, tuple | list)
            and len(value) == len(parts)
            and all(fits(each, part) for each, part in zip(value, parts, strict=True))
        )
    if origin in (tuple, list, Sequence):
        return isinstance(value, tuple | list) and all(fits(each, parts[0]) for each in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
    if hint in (int, float):
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
    return hint is Any or (isinstance(hint, type) and isinstance(value, hint))


def described(hint: Any) -> str:
    """A type in words."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return ' or '.join(described(part) for part in parts)
    if origin is Literal:
        return f'one of {", ".join(map(repr, parts))}'
    if origin is tuple and Ellipsis not in parts:
        return f'{len(parts)} values, {", ".join(map(described, parts))}'
    if origin in (tuple, list, Sequence):
        return f'a list, each {described(parts[0])}'
    names = {int: 'an integer', float: 'a number', str: 'a text', bool: 'true or false', type(None): 'nothing'}
    return names.get(hint, getattr(hint, '__name__', str(hint)))


def _fields(part: Any) -> Iterator[tuple[str, Any, Any]]:
    hints = typing.get_type_hints(type(part))
    for field in dataclasses.fields(part):
        yield field.name, getattr(part, field.name), hints[field.name]


def _numbers(value: Any) -> Iterator[int | float]:
    if isinstance(value, tuple | list):
        for each in value:
            yield from _numbers(each)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return shortened(value)
    if isinstance(value, int) and abs(value) >= 10**30:
        return f'a number of {math.floor(math.log10(abs(value))) + 1} digits'
    return shortened(repr(value))[1:-1]

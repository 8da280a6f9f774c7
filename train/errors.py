"""The two ways a run ends early with a message instead of a traceback."""

import difflib
import re
from collections.abc import Iterable


class UserError(ValueError):
    """Something asked for cannot be done; the message says what and what to do instead. Exit code 2."""


class Diverged(ArithmeticError):
    """The loss or the gradient is no longer finite. Exit code 1."""


# How JAX says that a device or the host has too little memory: on CPUs it is an internal error, or what the C++ library
# threw.
NO_MEMORY = re.compile('RESOURCE_EXHAUSTED|out of memory|bad_alloc|failed to allocate|cannot allocate memory', re.I)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the host has too little memory, whoever says so."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | OSError) and NO_MEMORY.search(str(error)) is not None
    )


def in_a_line(error: BaseException) -> str:
    """What an error of somebody else says, without its line breaks, and its kind where that says nothing."""
    text = ' '.join(str(error).partition('\n--------')[0].split())
    plain = isinstance(error, ValueError | RuntimeError | OSError) and text
    return text if plain else f'{type(error).__name__}: {text}'.removesuffix(': ')


def nearest(name: str, names: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the nearest one, or all there are."""
    names = sorted(names)
    near = difflib.get_close_matches(name, names, n=1)
    return f'did you mean {near[0]!r}?' if near else f'there are: {", ".join(names)}'

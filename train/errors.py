"""The two ways a run ends early with a message instead of a traceback."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something asked for cannot be done; the message says what and what to do instead. Exit code 2."""


class Diverged(ArithmeticError):
    """The loss or the gradient is no longer finite. Exit code 1."""


def nearest(name: str, names: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the nearest one, or all there are."""
    names = sorted(names)
    near = difflib.get_close_matches(name, names, n=1)
    return f'did you mean {near[0]!r}?' if near else f'there are: {", ".join(names)}'

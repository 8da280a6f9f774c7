"""User-facing errors."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """Something asked for cannot be done; the message says what and what to do instead. Exit code 2."""


def nearest(name: str, names: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the nearest one, or all there are."""
    names = sorted(names)
    near = difflib.get_close_matches(name, names, n=1)
    return f'did you mean {near[0]!r}?' if near else f'there are: {", ".join(names)}'


@contextmanager
def as_user_error(what: str) -> Iterator[None]:
    """The library's own refusals, which are clear already, as errors of the user's: `what: message`."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, TypeError) as error:
        raise UserError(f'{what}: {error}') from error

"""Paths that somebody typed."""

import os
from pathlib import Path

from train.errors import UserError


def place(path: str, what: str) -> Path:
    """A path with `~` written out, which may or may not be there.

    Args:
      path: as it was given.
      what: the option, for the message.

    Raises:
      UserError: it can be no path here: too long, a loop of links, not to be looked at, or of a home that nobody knows.
    """
    try:
        found = Path(path).expanduser()
        os.stat(found)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise UserError(f'{what}={shortened(path)} cannot be used: {error.strerror}') from error
    except (RuntimeError, ValueError) as error:  # no home; a zero byte
        raise UserError(f'{what}={shortened(path)} cannot be used: {error}') from error
    return found


def place_to_write(path: str, what: str) -> Path:
    """The same for a folder or file that is going to be written.

    Raises:
      UserError: as there, or it has bytes that are no UTF-8, which not all libraries can write to.
    """
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise UserError(f'{what}={shortened(path)} is no valid UTF-8: choose another name') from error
    return place(path, what)


def shortened(path: str) -> str:
    """In quotes, and short enough for a message."""
    return repr(path if len(path) <= 100 else f'{path[:60]}...{path[-30:]}')

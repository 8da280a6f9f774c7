"""Names and messages for a terminal."""

import reprlib


def shown(text: object, limit: int = 1000) -> str:
    """On one line: escapes for what is not printable, `...` for what is too long.

    Args:
      text: a name out of a file, a path, a message of a library.
      limit: characters of the result.
    """
    line = ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text)[: limit + 1])
    return line if len(line) <= limit else f'{line[: limit - 3]}...'


def summed_up(value: object) -> str:
    """Any plain data in a few words: what is written out in full may be nested without end."""
    return shown(reprlib.repr(value))

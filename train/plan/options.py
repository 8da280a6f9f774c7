"""Options of a recipe and their values, as words of a command line."""

from collections.abc import Mapping
from typing import Any


def as_options(changes: Mapping[str, Any]) -> list[str]:
    """Dotted options and their values -> `--option value` ..."""
    words = []
    for key, value in changes.items():
        dashed = key.replace('_', '-')
        if isinstance(value, bool):
            part, _, name = dashed.rpartition('.')
            words.append('--' + (f'{part}.' if part else '') + ('' if value else 'no-') + name)
        else:
            words += [f'--{dashed}', str(value)]
    return words

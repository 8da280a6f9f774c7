"""The recipes: one file each, with a docstring for `--help` and a `CONFIG`."""

import sys
from types import ModuleType

from train import catalogue


def names() -> list[str]:
    return catalogue.names(sys.modules[__name__])


def find(name: str) -> ModuleType:
    """The recipe's module, or a `UserError` with the nearest name."""
    return catalogue.module(sys.modules[__name__], name, names(), 'no recipe is called')

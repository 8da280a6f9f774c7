"""The recipes: one file each, with a docstring for `--help` and a `CONFIG`."""

import importlib
import pkgutil
from types import ModuleType

from train.errors import UserError, nearest


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.endswith('_test'))


def find(name: str) -> ModuleType:
    """The recipe's module, or a `UserError` with the nearest name."""
    if name not in names():
        raise UserError(f'no recipe is called {name!r}: {nearest(name, names())}')
    return importlib.import_module(f'{__name__}.{name}')

"""Packages in which every file is one choice: recipes, data sets, objectives."""

import importlib
import pkgutil
from types import ModuleType

from train.errors import UserError, nearest


def names(package: ModuleType, shared: tuple[str, ...] = ()) -> list[str]:
    """The files of a package but its tests and what its files share."""
    modules = (module.name for module in pkgutil.iter_modules(package.__path__))
    return sorted(name for name in modules if name not in shared and not name.endswith('_test'))


def module(package: ModuleType, name: str, known: list[str], what: str) -> ModuleType:
    """One file, or a `UserError` with the nearest name."""
    if name not in known:
        raise UserError(f'{what} {name!r}: {nearest(name, known)}')
    return importlib.import_module(f'{package.__name__}.{name}')


def class_of(file: ModuleType, base: type) -> type:
    """The one class of a file that is derived from `base`."""
    (found,) = (
        value
        for value in vars(file).values()
        if isinstance(value, type) and issubclass(value, base) and value.__module__ == file.__name__
    )
    return found


def name_of(value: object) -> str:
    """The file that the class of a value comes from."""
    return type(value).__module__.rpartition('.')[2]

"""One file per architecture, named as upstream names it."""

import importlib
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    """`vit_flax.models.vit` without importing it first."""
    try:
        return importlib.import_module(f'{__name__}.{name}')
    except ModuleNotFoundError as error:
        if error.name != f'{__name__}.{name}':
            raise
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

"""One file per training objective, named as upstream names it: a batch and its draws in, a loss and new state out."""

import importlib
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    """`vit_flax.objectives.mae` without importing it first."""
    try:
        return importlib.import_module(f'{__name__}.{name}')
    except ModuleNotFoundError as error:
        if error.name != f'{__name__}.{name}':
            raise
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

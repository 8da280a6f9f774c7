"""Vision transformers and their training objectives as pure functions in JAX/Flax linen, equal to PyTorch."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vit_flax.blocks.positions import resize_position_embedding as resize_position_embedding
    from vit_flax.registry import create_model as create_model
    from vit_flax.registry import list_models as list_models
    from vit_flax.weights import from_torch as from_torch
    from vit_flax.weights import stack_layers as stack_layers
    from vit_flax.weights import to_torch as to_torch
    from vit_flax.weights import unstack_layers as unstack_layers

__version__ = '0.1.0'

_HOME = {
    'create_model': 'vit_flax.registry',
    'list_models': 'vit_flax.registry',
    'from_torch': 'vit_flax.weights',
    'to_torch': 'vit_flax.weights',
    'stack_layers': 'vit_flax.weights',
    'unstack_layers': 'vit_flax.weights',
    'resize_position_embedding': 'vit_flax.blocks.positions',
}

__all__ = [*_HOME]


def __getattr__(name: str):
    import importlib

    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    try:
        return importlib.import_module(f'vit_flax.{name}')
    except ModuleNotFoundError as error:
        if error.name != f'vit_flax.{name}':
            raise
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])

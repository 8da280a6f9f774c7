"""Vision transformers and their training objectives as pure functions in JAX/Flax linen, equal to PyTorch.

`from vit_flax import ViT, MAE, Recorder` imports the main classes, each when it is asked for.
"""

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vit_flax.blocks.position_tables import position_tables as position_tables
    from vit_flax.blocks.positions import resize_position_embedding as resize_position_embedding
    from vit_flax.image_transform import preprocessing as preprocessing
    from vit_flax.pretrained import from_pretrained as from_pretrained
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
    'from_pretrained': 'vit_flax.pretrained',
    'preprocessing': 'vit_flax.image_transform',
    'from_torch': 'vit_flax.weights',
    'to_torch': 'vit_flax.weights',
    'stack_layers': 'vit_flax.weights',
    'unstack_layers': 'vit_flax.weights',
    'resize_position_embedding': 'vit_flax.blocks.positions',
    'position_tables': 'vit_flax.blocks.position_tables',
}

__all__ = [*_HOME]


@cache
def _classes() -> dict[str, str]:
    """The main classes, and where they stand, read from the files without importing them.

    Of the models that share a name the plain one has it: `ViT` is that of `vit`, `SimpleViT` that of `simple_vit`.
    """
    found: dict[str, str] = {}
    patterns = {'models': r'^CARD = ModelCard\(\s*(\w+)', 'objectives': r'^class (\w+)', 'wrappers': r'^class (\w+)'}
    for folder, pattern in patterns.items():
        for path in sorted((Path(__file__).parent / folder).glob('*.py')):
            for name in re.findall(pattern, path.read_text(encoding='utf-8'), re.MULTILINE):
                if path.stem.replace('_', '') == name.lower() or name not in found:
                    found[name] = f'vit_flax.{folder}.{path.stem}'
    return found


def __getattr__(name: str):
    import importlib

    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    try:
        return importlib.import_module(f'vit_flax.{name}')
    except ModuleNotFoundError as error:
        if error.name != f'vit_flax.{name}':
            raise
    if not name.startswith('_') and name in _classes():
        return getattr(importlib.import_module(_classes()[name]), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, *_classes()])

"""Sources of weights: one file for each, with a `SOURCE` that bears its name. A new file is a new source."""

import importlib
import pkgutil
from collections.abc import Iterable

from vit_flax.weights.source import Source

# Those that models have their own names of come first: others may have the same names.
OWN = 'vit_pytorch', 'timm'

NAMES = sorted(module.name for module in pkgutil.iter_modules(__path__))

SOURCES: dict[str, Source] = {
    name: importlib.import_module(f'{__name__}.{name}').SOURCE for name in dict.fromkeys((*OWN, *NAMES))
}


def recognised(names: Iterable[str]) -> str:
    """Whose names these are, for messages and `inspect`: `timm`, or `huggingface (ViT)`; empty if none is known."""
    names = [*names]
    for source in SOURCES.values():
        for family, _ in source.found(names):
            return source.name if family.title == source.name else f'{source.name} ({family.title})'
    return ''

"""Every model by name, read from the model files: each ends with one `CARD = ModelCard(...)`."""

import difflib
import fnmatch
import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any

from vit_flax import models
from vit_flax.blocks.backbone import Backbone
from vit_flax.card import ModelCard
from vit_flax.weights import timm


@cache
def stems() -> tuple[str, ...]:
    """The model files."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(models.__path__)))


def model_info(stem: str) -> ModelCard:
    """The `CARD` of one file."""
    return importlib.import_module(f'{models.__name__}.{stem}').CARD


@cache
def presets() -> dict[str, tuple[ModelCard, Mapping[str, Any]]]:
    """Preset name -> its model and keyword arguments."""
    return {name: (info, kwargs) for info in map(model_info, stems()) for name, kwargs in info.presets.items()}


def list_models(pattern: str = '*') -> list[str]:
    """The names that `create_model` takes and a shell pattern fits: upstream's module names, and presets.

    A pattern with a dot is one of timm's tags: `*dinov2*.*`.
    """
    names = {*stems(), *presets()}
    if '.' in pattern:
        names = {f'{name}.{tag}' for name in timm.sizes() for tag in timm.published()[name]['tags']}
    return sorted(fnmatch.filter(names, pattern))


def sized(name: str) -> tuple[ModelCard, Mapping[str, Any]] | None:
    """The model and keyword arguments of a preset, or of one of timm's names with a tag; None if there is no such."""
    if '.' not in name:
        return presets().get(name)
    tagged = timm.tagged(name)
    return None if tagged is None else (presets()[name.partition('.')[0]][0], tagged)


def create_model(name: str, **kwargs: Any) -> Backbone:
    """Builds a model by name.

    Args:
      name: a stem such as `vit` or a preset such as `vit_base_patch16_224`, which is timm's; of timm's also with a tag,
        `vit_base_patch16_224.augreg_in21k`.
      **kwargs: the constructor's; they win over a preset's.

    Raises:
      ValueError: no such name; the nearest is given.
    """
    if name in stems():
        return model_info(name).build(**kwargs)
    found = sized(name)
    if found is None:
        near = difflib.get_close_matches(name, list_models(), n=1)
        hint = f'did you mean {near[0]!r}?' if near else 'vit_flax.list_models() has them all'
        raise ValueError(f'no model is called {name!r}: {hint}')
    info, preset = found
    return info.build(**{**preset, **kwargs})

"""timm's names of networks, and its state dicts of `VisionTransformer`."""

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from flax import linen as nn

from vit_flax.blocks.positions import Resampling

RESAMPLING = Resampling(antialias=True)


@cache
def published() -> dict[str, dict[str, Any]]:
    """What timm publishes of `VisionTransformer`, by name: written by `parity_tests/timm_tags.py`.

    `args` are the arguments of ours and `parameters` their number; `tags` the pretrained weights of this network, each
    with the arguments that differ (None for the default), and how its images are prepared. A network that is not built
    has a `reason` instead.
    """
    table: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name('timm_tags.json').read_text())
    return table


@cache
def sizes() -> dict[str, dict[str, Any]]:
    """Arguments of each network that is built."""
    return {name: entry['args'] for name, entry in published().items() if 'args' in entry}


def tagged(name: str) -> dict[str, Any] | None:
    """Arguments of a name with a tag, such as `vit_base_patch16_224.augreg_in21k`; None if there is no such."""
    base, _, tag = name.partition('.')
    entry = published().get(base, {})
    if 'args' not in entry or tag not in entry['tags']:
        return None
    args = {**entry['args'], **{key: value for key, value in entry['tags'][tag].items() if key != 'images'}}
    return {key: value for key, value in args.items() if value is not None}


def read(model: nn.Module, state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As they are: `VisionTransformer` has timm's names."""
    return dict(state_dict)


def write(model: nn.Module, state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return dict(state_dict)


def matches(names: Iterable[str]) -> bool:
    """Whether these are the names of timm's plain transformers."""
    names = set(names)
    return any(name.startswith('patch_embed.') for name in names) and any(
        re.fullmatch(r'blocks\.\d+\.attn\.(qkv|q_proj)\.weight', name) for name in names
    )


def configuration(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Network and arguments of the `config.json` that timm writes beside its weights.

    Raises:
      ValueError: there is no architecture in it, or one that is not built.
    """
    if 'architecture' not in config:
        raise ValueError("timm's names do not tell heads, activations and epsilons")
    name, published_ = str(config['architecture']), config.get('pretrained_cfg', {})
    base = name.partition('.')[0]
    if base not in sizes():
        reason = published().get(base, {}).get('reason', 'it is no plain ViT of timm')
        raise ValueError(f'architecture {name!r} is not built here: {reason}')
    args = {**sizes()[base], **(tagged(f'{base}.{published_.get("tag", "")}') or {})}
    if published_.get('fixed_input_size') and 'input_size' in published_:
        _, height, width = published_['input_size']
        args['img_size'] = height if height == width else [height, width]
    args |= config.get('model_args', {})
    if 'num_classes' in config:
        args['num_classes'] = config['num_classes']
    if config.get('global_pool') is not None:
        args['global_pool'] = config['global_pool']
    return base, args

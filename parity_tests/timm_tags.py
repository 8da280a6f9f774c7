"""Writes timm's names of `VisionTransformer`, from the package itself: `python -m parity_tests.timm_tags`.

vit_flax/weights/timm_tags.json has, for each name, the arguments of ours and, for each tag of pretrained weights, where
it differs, and how its images are prepared; docs/timm.md the table. A network is listed as built if it has exactly
timm's number of parameters; what is not says why.
"""

import functools
import inspect
import json
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import torch

from parity_tests.timm_side import VERSION, timm
from vit_flax.blocks.module import example_inputs
from vit_flax.models.vision_transformer import VisionTransformer

ROOT = Path(__file__).parent.parent
TAGS, PAGE = ROOT / 'vit_flax' / 'weights' / 'timm_tags.json', ROOT / 'docs' / 'timm.md'
MODULES = 'vision_transformer', 'deit', 'vision_transformer_hybrid'
# how weights are drawn, which the weights of a file replace
INITIAL = {'weight_init', 'fix_init', 'device', 'dtype', 'strict_img_size'}
IMAGES = 'mean', 'std', 'interpolation', 'crop_pct', 'crop_mode', 'license'

INTRODUCTION = f"""# Networks of timm

What timm {VERSION} publishes for its class `VisionTransformer`, written by `python -m parity_tests.timm_tags`.
`vit_flax.create_model` takes each name, also with a tag (`vit_base_patch16_224.augreg_in21k`), and builds a network of
exactly timm's number of parameters; `from_torch(model, state_dict, source='timm')` loads its weights, strictly. Every
distinct combination of arguments is at parity with timm in float64, outputs and gradients, at a small width
(`parity_tests/test_timm.py`).

"""


class Built(Exception):
    """Carries what timm would have called the class with."""


def constructed(name: str) -> dict[str, Any]:
    """Arguments that timm's class gets for a name or a tag."""
    models = timm().models

    class Seen:
        def __init__(self, *args: Any, **kwargs: Any):
            if args:
                raise ValueError(f'{name}: positional arguments')
            raise Built(kwargs | ({'distilled': True} if self.distilled else {}))

    plain, distilled = type('Plain', (Seen,), {'distilled': False}), type('Two', (Seen,), {'distilled': True})
    with_classes = [
        (models.vision_transformer, 'VisionTransformer', plain),
        (models.deit, 'VisionTransformer', plain),
        (models.deit, 'VisionTransformerDistilled', distilled),
        (models.vision_transformer_hybrid, 'VisionTransformer', plain),
    ]
    before = [getattr(module, attribute) for module, attribute, _ in with_classes]
    try:
        for module, attribute, stand_in in with_classes:
            setattr(module, attribute, stand_in)
        timm().create_model(name)
    except Built as built:
        return built.args[0]
    finally:
        for (module, attribute, _), original in zip(with_classes, before, strict=True):
            setattr(module, attribute, original)
    raise ValueError(f'{name} is of another class')


def ours(theirs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of ours.

    Raises:
      ValueError: timm's network has a part that ours has not.
    """
    layers, kwargs = timm().layers, {key: value for key, value in theirs.items() if key not in INITIAL}
    norm, embed_norm = kwargs.pop('norm_layer', None), kwargs.pop('embed_norm_layer', None)
    act, mlp = kwargs.pop('act_layer', None), kwargs.pop('mlp_layer', layers.Mlp)
    block, attention = kwargs.pop('block_fn', None), kwargs.pop('attn_layer', None)
    if (embed := kwargs.pop('embed_layer', None)) is not None:
        backbone = embed.keywords['backbone'] if isinstance(embed, functools.partial) else embed
        raise ValueError(f'patches of a {type(backbone).__name__}')
    if block is not None and block.__name__ != 'Block':
        raise ValueError(f'blocks of another kind, {block.__name__}')
    if attention is not None:
        raise ValueError(f'attention of another kind, {attention!r}')
    kind, epsilon = normalisation(norm)
    kwargs |= {'norm': kind, 'norm_eps': epsilon}
    if embed_norm is not None:
        if normalisation(embed_norm) != (kind, epsilon):
            raise ValueError('a norm of another kind on the patches')
        kwargs['embed_norm'] = True
    names = {None: 'gelu', torch.nn.GELU: 'gelu', torch.nn.SiLU: 'silu'}
    kwargs['act'] = act if isinstance(act, str) else names[act]
    if isinstance(mlp, functools.partial):
        if mlp.func is not layers.GluMlp or mlp.keywords.get('gate_last', True):
            raise ValueError('a feed-forward network of another kind')
        kwargs['mlp'] = 'swiglu_packed'
    else:
        kwargs['mlp'] = {layers.Mlp: 'mlp', layers.SwiGLU: 'swiglu', layers.GluMlp: 'glu'}[mlp]
    defaults = {name: parameter.default for name, parameter in inspect.signature(VisionTransformer).parameters.items()}
    unknown = kwargs.keys() - defaults.keys()
    if unknown:
        raise ValueError(f'arguments that ours has not: {", ".join(sorted(unknown))}')
    return {key: short(value) for key, value in sorted(kwargs.items()) if short(value) != defaults[key]}


def short(value: Any) -> Any:
    """One number for two equal ones."""
    if isinstance(value, tuple | list):
        return value[0] if len(set(value)) == 1 else list(value)
    return value


def normalisation(layer: Any) -> tuple[str, float]:
    """Kind and epsilon of a norm."""
    layers = timm().layers
    epsilon = 1e-6
    if isinstance(layer, functools.partial):
        layer, epsilon = layer.func, layer.keywords['eps']
    if layer in (layers.RmsNorm, 'rmsnorm'):
        return 'rms', epsilon
    if layer in (None, layers.LayerNorm):
        return 'layer', epsilon
    raise ValueError(f'a norm of another kind, {layer}')


def parameters(args: dict[str, Any]) -> int:
    """Of ours; one layer of the stack is traced for all."""
    model = VisionTransformer(**args, scan=True)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *example_inputs(model))['params']
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def parameters_of_timm(name: str) -> int:
    with torch.device('meta'):
        return sum(p.numel() for p in timm().create_model(name).parameters())


def described(name: str) -> dict[str, Any]:
    """What a name stands for: arguments and tags, or a reason."""
    tags = timm().list_pretrained(f'{name}.*')
    try:
        args = ours(constructed(name))
    except ValueError as error:
        return {'reason': str(error), 'tags': {tag.partition('.')[2]: {} for tag in tags}}
    count, theirs = parameters(args), parameters_of_timm(name)
    if count != theirs:
        raise AssertionError(f'{name}: {count:,} parameters, timm has {theirs:,}')
    found = {}
    for tag in tags:
        config = timm().get_pretrained_cfg(tag)
        own = ours(constructed(tag))
        different = {key: own.get(key) for key in own.keys() | args.keys() if own.get(key) != args.get(key)}
        if set(different) - {'num_classes', 'img_size'}:
            raise AssertionError(f'{tag}: {different}')
        images = {key: short(getattr(config, key)) for key in IMAGES if getattr(config, key) is not None}
        found[tag.partition('.')[2]] = {**different, 'images': images}
    return {'args': args, 'parameters': count, 'tags': found}


def names() -> list[str]:
    """Of the class, without timm's deprecated ones."""
    registry = timm().models._registry
    every = sorted(name for module in MODULES for name in registry._module_to_models[module])
    return [name for name in every if name not in registry._deprecated_models]


def page(table: dict[str, Any]) -> str:
    """Names by family, then what is missing."""
    built = {name: entry for name, entry in table.items() if 'args' in entry}
    missing = {name: entry for name, entry in table.items() if 'args' not in entry}
    tags = {True: sum(len(e['tags']) for e in built.values()), False: sum(len(e['tags']) for e in missing.values())}
    combinations = Counter(combination(entry['args']) for entry in built.values() for _ in entry['tags'])
    text = (
        f'{tags[True]} of {sum(tags.values())} tags are built: {len(built)} of {len(table)} names, '
        f'{len(combinations)} combinations of arguments.\n\n| name | parameters | tags | arguments beside the sizes |\n'
        '|---|--:|--:|---|\n'
    )
    for name, entry in built.items():
        text += f'| `{name}` | {entry["parameters"]:,} | {len(entry["tags"])} | {combination(entry["args"])} |\n'
    text += '\n## Not built\n\n| name | tags | why |\n|---|--:|---|\n'
    for name, entry in missing.items():
        text += f'| `{name}` | {len(entry["tags"])} | {entry["reason"]} |\n'
    return INTRODUCTION + text


SIZES = {'img_size', 'patch_size', 'embed_dim', 'depth', 'num_heads', 'mlp_ratio', 'num_classes', 'in_chans'}


def combination(args: dict[str, Any]) -> str:
    return ', '.join(f'{key}={value!r}' for key, value in args.items() if key not in SIZES)


def main() -> None:
    table = {name: described(name) for name in names()}
    lines = ',\n'.join(f' {json.dumps(name)}: {json.dumps(entry)}' for name, entry in table.items())
    TAGS.write_text(f'{{\n{lines}\n}}\n')
    PAGE.write_text(page(table))


if __name__ == '__main__':
    main()

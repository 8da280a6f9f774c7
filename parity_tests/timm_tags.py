"""Writes timm's names of plain vision transformers, from the package itself: `python -m parity_tests.timm_tags`.

vit_flax/weights/timm_tags.json has, for each name, the arguments of ours and, for each tag of pretrained weights, where
it differs, and how its images are prepared; docs/timm.md the table. A network is listed as built if it has exactly
timm's number of parameters; what is not says why.
"""

import functools
import inspect
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
import torch

from parity_tests.timm_side import VERSION, timm
from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.module import example_inputs
from vit_flax.models.beit import Beit
from vit_flax.models.cait_published import Cait
from vit_flax.models.eva import Eva
from vit_flax.models.levit_published import Levit
from vit_flax.models.pit_published import PoolingVisionTransformer
from vit_flax.models.qwen3_vit import Qwen3VitClassifier
from vit_flax.models.qwen3_vit_encoder import Qwen3VitEncoder
from vit_flax.models.vision_transformer import VisionTransformer
from vit_flax.models.vision_transformer_hybrid import HybridVisionTransformer
from vit_flax.models.xcit_published import Xcit

ROOT = Path(__file__).parent.parent
TAGS, PAGE = ROOT / 'vit_flax' / 'weights' / 'timm_tags.json', ROOT / 'docs' / 'timm.md'
MODULES = 'vision_transformer', 'deit', 'vision_transformer_hybrid'
# how weights are drawn, which the weights of a file replace
INITIAL = {'weight_init', 'fix_init', 'device', 'dtype', 'strict_img_size'}
IMAGES = 'mean', 'std', 'interpolation', 'crop_pct', 'crop_mode', 'license'

INTRODUCTION = f"""# Networks of timm

What timm {VERSION} publishes of plain vision transformers, written by `python -m parity_tests.timm_tags`.
`vit_flax.create_model` takes each name, also with a tag (`vit_base_patch16_224.augreg_in21k`), and builds a network of
exactly timm's number of parameters; `from_torch(model, state_dict, source='timm')` loads its weights, strictly. Every
distinct combination of arguments is at parity with timm in float64, outputs and gradients, at a small width
(`parity_tests/test_timm.py`).

"""


class Built(Exception):
    """Carries the class of ours and what timm would have called its own with."""


# Ours, and timm's that it is.
CLASSES = {
    VisionTransformer: (
        'vision_transformer.VisionTransformer',
        'deit.VisionTransformer',
        'deit.VisionTransformerDistilled',
        'vision_transformer_hybrid.VisionTransformer',
    ),
    Eva: ('eva.Eva',),
    Beit: ('beit.Beit',),
    Qwen3VitClassifier: ('qwen3_vit.Qwen3VitClassifier',),
    Qwen3VitEncoder: ('qwen3_vit.Qwen3VitEncoder',),
    Xcit: ('xcit.Xcit',),
    Cait: ('cait.Cait',),
    Levit: ('levit.Levit', 'levit.LevitDistilled'),
    PoolingVisionTransformer: ('pit.PoolingVisionTransformer',),
}
# Further modules of timm with plain ViTs, which count among those of docs/timm.md, and why none of one is built.
OTHERS = {
    'eva': '',
    'beit': '',
    'qwen3_vit': '',
    'vision_transformer_relpos': 'relative positions by a small network, one for each block or for all',
    'vision_transformer_sam': 'attention in windows, with relative positions of each axis',
    'naflexvit': 'images of several sizes packed into one batch',
    'deepseek_vit': 'the encoder of a language model, with patches that are unfolded for its projection',
    'gemma4_vit': 'the encoder of a language model, with norms before and behind each branch and pooled patches',
}
# And of other families, whose networks are built as published.
FAMILIES = 'cait', 'levit', 'pit', 'xcit'
BUILT_MODULES = {path.partition('.')[0] for paths in CLASSES.values() for path in paths}


def constructed(name: str) -> tuple[type[Backbone], dict[str, Any]]:
    """The class of ours for a name or a tag, and the arguments that timm's gets.

    Raises:
      ValueError: ours has no such class.
    """
    models = timm().models

    def stand_in(kind: type[Backbone], theirs: str) -> type:
        class Seen:
            def __init__(self, *args: Any, **kwargs: Any):
                if args:
                    raise TypeError(f'{name}: positional arguments')
                raise Built(kind, kwargs | ({'distilled': True} if theirs.endswith('Distilled') else {}))

        return Seen

    before = []
    try:
        for kind, them in CLASSES.items():
            for path in them:
                module, attribute = getattr(models, path.partition('.')[0]), path.partition('.')[2]
                before.append((module, attribute, getattr(module, attribute)))
                setattr(module, attribute, stand_in(kind, path))
        other = timm().create_model(name) if module_of(name) in BUILT_MODULES else None
    except Built as built:
        return built.args
    finally:
        for module, attribute, original in before:
            setattr(module, attribute, original)
    raise ValueError(f'of class {type(other).__name__}' if other else OTHERS[module_of(name)])


def ours(name: str) -> tuple[type[Backbone], dict[str, Any]]:
    """The class of ours for a name or a tag, and its arguments.

    Raises:
      ValueError: timm's network has a part that ours has not.
    """
    kind, theirs = constructed(name)
    kwargs = {key: value for key, value in theirs.items() if key not in INITIAL}
    if (embed := kwargs.pop('embed_layer', None)) is not None:
        kind = HybridVisionTransformer
        kwargs |= backbone(embed.keywords['backbone'])
    kwargs |= layers(kwargs)
    defaults = {name: parameter.default for name, parameter in inspect.signature(kind).parameters.items()}
    unknown = kwargs.keys() - defaults.keys()
    if unknown:
        raise ValueError(f'arguments that ours has not: {", ".join(sorted(unknown))}')
    return kind, {key: short(value) for key, value in sorted(kwargs.items()) if short(value) != short(defaults[key])}


def backbone(network: torch.nn.Module) -> dict[str, Any]:
    """Arguments of a hybrid for its convolutional network."""
    resnet = timm().models.resnetv2.ResNetV2
    if not isinstance(network, resnet) and [name for name, _ in network.named_children()] != ['conv', 'norm', 'pool']:
        raise ValueError(f'patches of a {type(network).__name__}')
    return {'layers': [len(stage.blocks) for stage in network.stages] if isinstance(network, resnet) else []}


def layers(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Takes the constructors of layers out of timm's arguments, and returns ours for them.

    Raises:
      ValueError: ours has no such layer.
    """
    layers, found = timm().layers, {}
    block, attention = kwargs.pop('block_fn', None), kwargs.pop('attn_layer', None)
    if block is not None and block.__name__ != 'Block':
        raise ValueError(f'blocks of another kind, {block.__name__}')
    if attention is not None:
        raise ValueError(f'attention of another kind, {attention!r}')
    norm = normalisation(kwargs.pop('norm_layer', None))
    if norm != normalisation(None):
        found['norm'], found['norm_eps'] = norm
    embed_norm = kwargs.pop('embed_norm_layer', None)
    if embed_norm is not None:
        if normalisation(embed_norm) != norm:
            raise ValueError('a norm of another kind on the patches')
        found['embed_norm'] = True
    if 'act_layer' in kwargs:
        act = kwargs.pop('act_layer')
        found['act'] = act if isinstance(act, str) else {torch.nn.GELU: 'gelu', torch.nn.SiLU: 'silu'}[act]
    if 'mlp_layer' in kwargs:
        mlp = kwargs.pop('mlp_layer')
        if isinstance(mlp, functools.partial):
            if mlp.func is not layers.GluMlp or mlp.keywords.get('gate_last', True):
                raise ValueError('a feed-forward network of another kind')
            found['mlp'] = 'swiglu_packed'
        else:
            found['mlp'] = {layers.Mlp: 'mlp', layers.SwiGLU: 'swiglu', layers.GluMlp: 'glu'}[mlp]
    return found


def short(value: Any) -> Any:
    """One number for two equal ones."""
    if isinstance(value, tuple | list):
        return value[0] if len(value) == 2 and value[0] == value[1] else list(value)
    return value


def one_if_equal(value: Any) -> Any:
    """One number for equal ones of several channels."""
    return value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value


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


def parameters(kind: type[Backbone], args: dict[str, Any]) -> int:
    """Of ours; one layer of the stack is traced for all, unless they differ."""
    model = kind(**args, scan=isinstance(args.get('num_kv_heads', 0), int) or len(set(args['num_kv_heads'])) == 1)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *example_inputs(model))['params']
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def parameters_of_timm(name: str) -> int:
    with torch.device('meta'):
        return sum(p.numel() for p in timm().create_model(name).parameters())


def described(name: str) -> dict[str, Any]:
    """What a name stands for: arguments and tags, or a reason."""
    tags = timm().list_pretrained(f'{name}.*')
    entry: dict[str, Any] = {'module': module_of(name)}
    try:
        kind, args = ours(name)
    except ValueError as error:
        return entry | {'reason': str(error), 'tags': {tag.partition('.')[2]: {} for tag in tags}}
    count, theirs = parameters(kind, args), parameters_of_timm(name)
    if count != theirs:
        raise AssertionError(f'{name}: {count:,} parameters, timm has {theirs:,}')
    found = {}
    for tag in tags:
        config = timm().get_pretrained_cfg(tag)
        _, own = ours(tag)
        different = {key: own.get(key) for key in own.keys() | args.keys() if own.get(key) != args.get(key)}
        if set(different) - {'num_classes', 'img_size', 'out_features'}:
            raise AssertionError(f'{tag}: {different}')
        images = {key: one_if_equal(getattr(config, key)) for key in IMAGES if getattr(config, key) is not None}
        found[tag.partition('.')[2]] = {**different, 'images': images}
    stem = kind.__module__.rpartition('.')[2]
    return entry | {'stem': stem, 'args': args, 'parameters': count, 'tags': found}


def module_of(name: str) -> str:
    """The module of timm that has a name or a tag."""
    return timm().models._registry._model_to_module[name.partition('.')[0]]


def names() -> list[str]:
    """Of all these modules, without timm's deprecated ones."""
    registry = timm().models._registry
    every = sorted(name for module in (*MODULES, *OTHERS, *FAMILIES) for name in registry._module_to_models[module])
    return [name for name in every if name not in registry._deprecated_models]


def tags_built(table: dict[str, Any], modules: Collection[str]) -> tuple[int, int]:
    """How many tags of these modules are built, and how many there are."""
    entries = [entry for entry in table.values() if entry['module'] in modules]
    return sum(len(e['tags']) for e in entries if 'args' in e), sum(len(e['tags']) for e in entries)


def page(table: dict[str, Any]) -> str:
    """Names by family, then what is missing."""
    built = {name: entry for name, entry in table.items() if 'args' in entry}
    missing = {name: entry for name, entry in table.items() if 'args' not in entry}
    combinations = {(entry['stem'], combination(entry['args'])) for entry in built.values()}
    one, every = tags_built(table, MODULES), tags_built(table, (*MODULES, *OTHERS))
    text = (
        f'{one[0]} of {one[1]} tags of class `VisionTransformer` are built, and {every[0]} of {every[1]} of all plain '
        f'ViTs; with other families {len(built)} of {len(table)} names, {len(combinations)} combinations of '
        'arguments.\n\n'
        '| module of timm | tags built | of |\n|---|--:|--:|\n'
    )
    for module in (*MODULES, *OTHERS, *FAMILIES):
        text += '| `{}` | {} | {} |\n'.format(module, *tags_built(table, (module,)))
    text += '\n| name | model | parameters | tags | arguments beside the sizes |\n|---|---|--:|--:|---|\n'
    for name, entry in built.items():
        text += (
            f'| `{name}` | `{entry["stem"]}` | {entry["parameters"]:,} | {len(entry["tags"])} '
            f'| {combination(entry["args"])} |\n'
        )
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

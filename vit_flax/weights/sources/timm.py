"""timm's names, which `VisionTransformer` has itself, and those of its older releases and of OpenCLIP around it."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from vit_flax.weights.rows import Arrays, Row, to_ours
from vit_flax.weights.source import Configuration, Family, OwnSource, Report, Shapes
from vit_flax.weights.timm import published, sizes, tagged

# LayerScale before it was a module.
OLDER = (Row('blocks.{i}.gamma_1', 'blocks.{i}.ls1.gamma'), Row('blocks.{i}.gamma_2', 'blocks.{i}.ls2.gamma'))
# Indices of relative positions, and angles and frequencies of rotary ones that are not learned.
COMPUTED = re.compile(r'(^|\.)relative_position_index$|^rope\.(?!freqs$)')
# OpenCLIP has the network in `visual.trunk` and its projection beside it.
OPEN_CLIP = Row('visual.head.proj', 'visual.trunk.head')


def newest(model: Any, arrays: Arrays) -> dict[str, np.ndarray]:
    """A state dict of timm since 0.1 in today's names and shapes.

    Tables that follow from the sizes were stored. Patches were embedded by a linear map before they were by a
    convolution; LayerScale was a parameter of the block. The last norm is `norm` before the pooling and `fc_norm`
    behind it, which is the same for a class token.
    """
    arrays = {name: array for name, array in arrays.items() if not COMPUTED.search(name)}
    if type(model).__name__ not in ('VisionTransformer', 'HybridVisionTransformer'):
        return arrays
    found, rest = to_ours(OLDER, arrays)
    ours = {**rest, **found}
    kernel = ours.get('patch_embed.proj.weight')
    if kernel is not None and kernel.ndim == 2 and kernel.shape[1] == model.grid.patch_dim:
        ours['patch_embed.proj.weight'] = kernel.reshape(len(kernel), model.in_chans, *model.grid.patch)
    if model.global_pool == 'token':
        own, other = ('fc_norm', 'norm') if model.fc_norm else ('norm', 'fc_norm')
        if not any(name.startswith(f'{own}.') for name in ours):
            found, rest = to_ours([Row(other, own)], ours)
            ours = {**rest, **found}
    return ours


class Timm(OwnSource):
    """timm's names, and the projection that OpenCLIP has beside a network of timm."""

    def read(
        self, model: Any, state_dict: Arrays, shapes: Shapes, report: Report = lambda line: None
    ) -> dict[str, np.ndarray]:
        found, rest = to_ours([OPEN_CLIP], state_dict)
        if found and 'head.bias' in shapes:
            kernel = found['visual.trunk.head.weight']
            found.setdefault('visual.trunk.head.bias', np.zeros(len(kernel), kernel.dtype))
        return super().read(model, {**rest, **found}, shapes, report)

    def configuration(self, given: Mapping[str, Any], names: Iterable[str] = ()) -> Configuration:
        """Name and arguments for `create_model` of the fields of the `config.json` that timm writes.

        Raises:
          ValueError: there is no architecture, or one that is not built. Names and shapes alone do not tell heads,
            activations and epsilons.
        """
        if 'architecture' not in given:
            raise ValueError("timm's names do not tell heads, activations and epsilons")
        name, images = str(given['architecture']).partition('.')[0], given.get('pretrained_cfg') or {}
        if name not in sizes():
            reason = published().get(name, {}).get('reason', 'it is no plain ViT of timm')
            raise ValueError(f'architecture {name!r} is not built here: {reason}')
        args = tagged(f'{name}.{images.get("tag", "")}') or dict(sizes()[name])
        if images.get('fixed_input_size') and 'input_size' in images:
            args['img_size'] = tuple(images['input_size'][1:])
        args |= given.get('model_args') or {}
        args |= {key: given[key] for key in ('num_classes', 'global_pool') if given.get(key) is not None}
        return name, args


SOURCE = Timm(
    'timm',
    'timm, and OpenCLIP around it',
    (
        Family(
            'timm',
            'VisionTransformer',
            ('patch_embed.proj', 'blocks.{i}.norm1', 'blocks.{i}.mlp'),
            lambda model: (),
            absent=('mask_token', 'decoder_embed', 'blocks.{i}.{j}'),
            vintages=OLDER,
        ),
    ),
    newest=newest,
)

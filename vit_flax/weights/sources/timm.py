"""timm's names, which `VisionTransformer` has itself, and those of its older releases and of OpenCLIP around it."""

from typing import Any

import numpy as np

from vit_flax.weights.rows import Arrays, Row, to_ours
from vit_flax.weights.source import Family, OwnSource, Report, Shapes, sizes_of

# LayerScale before it was a module.
OLDER = (Row('blocks.{i}.gamma_1', 'blocks.{i}.ls1.gamma'), Row('blocks.{i}.gamma_2', 'blocks.{i}.ls2.gamma'))
# OpenCLIP has the network in `visual.trunk` and its projection beside it.
OPEN_CLIP = Row('visual.head.proj', 'visual.trunk.head')


def newest(model: Any, arrays: Arrays) -> dict[str, np.ndarray]:
    """A state dict of timm since 0.1 in today's names and shapes.

    Patches were embedded by a linear map before they were by a convolution; LayerScale was a parameter of the block.
    The last norm is `norm` before the pooling and `fc_norm` behind it, which is the same for a class token.
    """
    if type(model).__name__ not in ('VisionTransformer', 'HybridVisionTransformer'):
        return dict(arrays)
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


def configuration(shapes: Shapes) -> dict[str, Any]:
    """Arguments of a plain network."""
    registers = shapes['reg_token'][1] if 'reg_token' in shapes else 0
    class_token, distilled = 'cls_token' in shapes, 'dist_token' in shapes
    prefix = class_token + distilled + registers
    patches = shapes['pos_embed'][1]
    # the table has no rows for these tokens if it is a square without them
    embeds = round((patches - prefix) ** 0.5) ** 2 == patches - prefix
    pooled = 'fc_norm.weight' in shapes
    pooling = 'map' if 'attn_pool.latent' in shapes else 'avg' if pooled or not class_token else 'token'
    given = dict(
        sizes_of(
            shapes,
            kernel='patch_embed.proj.weight',
            positions='pos_embed',
            block='blocks.{i}',
            hidden='blocks.0.mlp.fc1.weight',
            prefix=prefix if embeds else 0,
            head='head.weight',
        ),
        class_token=class_token,
        distilled=distilled,
        reg_tokens=registers,
        no_embed_class=not embeds,
        global_pool=pooling,
        fc_norm=pooled,
        qkv_bias='blocks.0.attn.qkv.bias' in shapes,
        pre_norm='norm_pre.weight' in shapes,
    )
    return given | ({'init_values': 1e-5} if 'blocks.0.ls1.gamma' in shapes else {})


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
            configuration=configuration,
        ),
    ),
    newest=newest,
)

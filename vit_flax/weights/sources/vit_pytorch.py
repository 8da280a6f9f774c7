"""vit-pytorch's names, which most models have themselves, and those of its older releases."""

import re
from collections.abc import Mapping

import numpy as np
from einops import rearrange
from flax import linen as nn

from vit_flax.blocks.backbone import Backbone
from vit_flax.weights.source import Family, OwnSource

# Module names up to vit-pytorch 1.2, in the order in which they are to be replaced.
OLDER_NAMES = (
    (r'^transformer\.layers\.(\d+)\.0\.fn\.', r'transformer.layers.\1.0.'),
    (r'^transformer\.layers\.(\d+)\.1\.norm\.', r'transformer.layers.\1.1.net.0.'),
    (r'^transformer\.layers\.(\d+)\.1\.fn\.net\.3\.', r'transformer.layers.\1.1.net.4.'),
    (r'^transformer\.layers\.(\d+)\.1\.fn\.net\.0\.', r'transformer.layers.\1.1.net.1.'),
    (r'^mlp_head\.0\.', 'transformer.norm.'),
    (r'^mlp_head\.1\.', 'mlp_head.'),
)


def newest(model: nn.Module, state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """State dicts of ViT since vit-pytorch 1.0 in today's names and shapes; of other models as they are.

    Up to 1.15 class token and positions had a batch axis. Up to 1.2 each layer was wrapped
    in a PreNorm, and the last norm stood in the head, behind the pooling, which for a class
    token is the same. Before 1.0 patches were not normalised: another model.

    Raises:
      ValueError: the release computes something else than today's ViT.
    """
    from vit_flax.models.vit import ViT  # models import this package

    if not isinstance(model, ViT):
        return dict(state_dict)
    names = {name: name for name in state_dict}
    for pattern, replacement in OLDER_NAMES:
        names = {old: re.sub(pattern, replacement, name) for old, name in names.items()}
    older = any(old != name for old, name in names.items())
    if older and 'to_patch_embedding.2.weight' not in state_dict:
        raise ValueError(
            'the state dict is of vit-pytorch before 1.0, whose patches are not normalised: '
            'this ViT cannot compute the same'
        )
    if older and model.pool == 'mean':
        raise ValueError(
            "the state dict is of vit-pytorch before 1.3 (the head holds the last norm): with pool='mean' it "
            'averages before that norm and keeps a class token, which this ViT does not'
        )
    if len(set(names.values())) < len(names):
        raise ValueError('the state dict holds names of several releases: two of them are the same in the newest')
    batched = {'cls_token', 'pos_embedding'}
    return {
        names[old]: array[0] if old in batched and array.ndim == 3 and len(array) == 1 else array
        for old, array in state_dict.items()
    }


def reorder_video_patches(model: Backbone, state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state dict of a video model of vit-pytorch before 1.16.2 for `from_torch`, which takes today's.

    Inside a patch the frames used to be innermost of the three axes, now they are outermost. Names and
    shapes do not tell, so the caller must know: numpy arrays in, numpy arrays out.
    """
    frames, rows, columns = model.grid.patch

    def reorder(array: np.ndarray) -> np.ndarray:
        return rearrange(array, '... (h w t c) -> ... (t h w c)', t=frames, h=rows, w=columns)

    by_patch = re.compile(r'to_patch_embedding\.(1\.(weight|bias)|2\.weight)')
    return {name: reorder(array) if by_patch.fullmatch(name) else array for name, array in state_dict.items()}


def _names(*marks: str) -> Family:
    return Family('vit_pytorch', '', marks, lambda model: ())


SOURCE = OwnSource(
    'vit_pytorch',
    'vit-pytorch, 1.0 to 1.26, and the authors of CCT',
    (
        _names('to_patch_embedding.{i}'),
        _names('to_patch_embed.{i}', 'layers.{i}'),
        _names('transformer.layers', 'mlp_head'),
        _names('tokenizer.conv_layers', 'classifier.attention_pool'),  # also the authors' of CCT
    ),
    newest=newest,
)

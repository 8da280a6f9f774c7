"""Names and layouts of Hugging Face's transformers: the image encoder of SigLIP."""

import re
from collections.abc import Mapping

import numpy as np
from einops import rearrange
from flax import linen as nn

# Names there and in vit-pytorch, both ways; `{i}` stands for a layer.
SIGLIP = {
    'embeddings.patch_embedding': 'to_patch_embed.1',
    'embeddings.position_embedding.weight': 'pos_embed',
    'encoder.layers.{i}.layer_norm1': 'layers.{i}.0.norm',
    'encoder.layers.{i}.self_attn.q_proj': 'layers.{i}.0.to_q',
    'encoder.layers.{i}.self_attn.out_proj': 'layers.{i}.0.to_out.0',
    'encoder.layers.{i}.layer_norm2': 'layers.{i}.1.0',
    'encoder.layers.{i}.mlp.fc1': 'layers.{i}.1.1',
    'encoder.layers.{i}.mlp.fc2': 'layers.{i}.1.3',
    'post_layernorm': 'norm',
}
KEYS, VALUES = ('encoder.layers.{i}.self_attn.' + name for name in ('k_proj', 'v_proj'))
KEYS_AND_VALUES = 'layers.{i}.0.to_kv'
PATCHES = 'embeddings.patch_embedding.weight'


def read(model: nn.Module, state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """SigLIP's image encoder (`model.safetensors` of google/siglip-so400m-patch14-224) in vit-pytorch's names.

    Also takes the weights of a whole SigLIP, of a PaliGemma or of a policy that has one: what is not of the image
    encoder, and its pooling head, are left out.

    Raises:
      ValueError: the model is not SigLIP, or there is no image encoder among the names.
    """
    _check_model(model)
    marker = 'post_layernorm.weight'
    found = [name.removesuffix(marker) for name in state_dict if name.endswith(marker)]
    prefixes = [prefix for prefix in found if not prefix or prefix.endswith('vision_model.')]
    if len(prefixes) != 1:
        raise ValueError(f'the state dict must hold one image encoder of SigLIP, with {marker}: it has {len(prefixes)}')
    theirs = {name.removeprefix(prefixes[0]): x for name, x in state_dict.items() if name.startswith(prefixes[0])}
    theirs = {name: array for name, array in theirs.items() if not name.startswith('head.')}
    ours = {}
    for name, array in theirs.items():
        if name == PATCHES:
            array = rearrange(array, 'd c h w -> d (h w c)')
        if keys := _match(KEYS, name):
            values = theirs.get(name.replace('k_proj', 'v_proj'))
            if values is None:
                raise ValueError(f'the state dict holds {name} and no values beside them')
            ours[_fill(KEYS_AND_VALUES, keys)] = np.concatenate([array, values])
        elif not _match(VALUES, name):
            ours[_translate(name, SIGLIP)] = array
    return ours


def write(model: nn.Module, state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `read`: names of `SiglipVisionModel`'s `vision_model`, without the pooling head."""
    _check_model(model)
    theirs: dict[str, np.ndarray] = {}
    for name, array in state_dict.items():
        if both := _match(KEYS_AND_VALUES, name):
            keys, values = np.split(array, 2)
            theirs |= {_fill(KEYS, both): keys, _fill(VALUES, both): values}
        else:
            theirs[_translate(name, {ours: there for there, ours in SIGLIP.items()})] = array
    height, width = model.grid.patch
    theirs[PATCHES] = rearrange(theirs[PATCHES], 'd (h w c) -> d c h w', h=height, w=width)
    return theirs


def _check_model(model: nn.Module) -> None:
    from vit_flax.models.vat_siglip import SigLIP  # models import this package

    if not isinstance(model, SigLIP):
        raise ValueError(
            f"source='huggingface' has names for SigLIP, not for {type(model).__name__}: of a SigLIPVAT it is the "
            "image encoder alone, whose parameters are those under 'vit'"
        )


def _match(pattern: str, name: str) -> re.Match[str] | None:
    """A name that begins with a pattern; its groups are the layer's number and what follows."""
    return re.fullmatch(re.escape(pattern).replace(r'\{i\}', r'(?P<i>\d+)') + r'(?P<rest>(\..*)?)', name)


def _fill(pattern: str, match: re.Match[str]) -> str:
    return pattern.replace('{i}', match.groupdict().get('i', '')) + match['rest']


def _translate(name: str, rows: Mapping[str, str]) -> str:
    """The name on the other side; one without a row is kept, for the report of what is unexpected."""
    return next((_fill(rows[row], match) for row in rows if (match := _match(row, name))), name)

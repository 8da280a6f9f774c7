"""Names of microsoft/unilm's BEiT-3, arXiv:2208.10442: of its experts, that of images; read alone."""

from dataclasses import dataclass

import numpy as np

from vit_flax.weights.rows import Row
from vit_flax.weights.source import Family, Source

BLOCK = 'encoder.layers.{i}'
# Modules that each expert has its own of, and ours.
EXPERTS = {
    f'{BLOCK}.self_attn_layer_norm.A': 'blocks.{i}.norm1',
    f'{BLOCK}.self_attn.inner_attn_ln.A': 'blocks.{i}.attn.norm',
    f'{BLOCK}.self_attn.out_proj.A': 'blocks.{i}.attn.proj',
    f'{BLOCK}.final_layer_norm.A': 'blocks.{i}.norm2',
    f'{BLOCK}.ffn.A.fc1': 'blocks.{i}.mlp.fc1',
    f'{BLOCK}.ffn.A.ffn_layernorm': 'blocks.{i}.mlp.norm',
    f'{BLOCK}.ffn.A.fc2': 'blocks.{i}.mlp.fc2',
}
PROJECTIONS = tuple(f'{BLOCK}.self_attn.{part}_proj.A' for part in 'qkv')


@dataclass(frozen=True)
class ReservedRows:
    """A table of positions, `[2+n d] <-> [1 n d]`, whose first two rows no token reads."""

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        return array[None, 2:]

    def to_flax(self, array: np.ndarray) -> np.ndarray:
        return np.pad(array[0], ((2, 0), (0, 0)))


ROWS = (
    Row('vision_embed.cls_token', 'cls_token'),
    Row('vision_embed.proj', 'patch_embed.proj'),
    Row('encoder.embed_positions.A.weight', 'pos_embed', ReservedRows()),
    Row(PROJECTIONS, 'blocks.{i}.attn.qkv'),
    *(Row(theirs, ours) for theirs, ours in EXPERTS.items()),
)

SOURCE = Source(
    'beit3',
    "microsoft/unilm's BEiT-3, its expert of images",
    (
        Family(
            'BEiT-3',
            'VisionTransformer',
            ('vision_embed.cls_token', 'vision_embed.proj', 'encoder.embed_positions.A'),
            lambda model: ROWS,
            heads=lambda model: (Row('head', 'head'), Row('fc_norm', 'fc_norm'), Row('norm', 'norm')),
            prefix='beit3.',
            requires={
                'class_token': (True,),
                'reg_tokens': (0,),
                'no_embed_class': (False,),
                'pos_embed': ('learn',),
                'qk_scale': (None,),
                'norm': ('layer',),
                'scale_attn_norm': (True,),
                'scale_mlp_norm': (True,),
                'mlp': ('mlp',),
            },
            left_out=(
                *(name.replace('.A', '.B') for name in (*PROJECTIONS, *EXPERTS)),
                'encoder.embed_positions.B',
                'text_embed',
                'vision_embed.mask_token',
            ),
            is_written=False,
        ),
    ),
)

"""Names of facebookresearch/dinov3, arXiv:2508.10104."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from vit_flax.blocks.positions import Resampling
from vit_flax.weights.rows import Row
from vit_flax.weights.source import GIVEN, Family, Source

ALL = Row('', '')


@dataclass(frozen=True)
class WithoutKeys:
    """Biases of queries, keys and values, of which those of keys are masked there and are none here."""

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        query, _, value = np.split(array, 3)
        return np.concatenate([query, value])

    def to_flax(self, array: np.ndarray) -> np.ndarray:
        query, value = np.split(array, 2)
        return np.concatenate([query, np.zeros_like(query), value])


def rows(model: Any) -> tuple[Row, ...]:
    attention, biases = 'blocks.{i}.attn', ('blocks.{i}.attn.q_bias', 'blocks.{i}.attn.v_bias')
    return (
        Row('storage_tokens', 'reg_token'),
        *([Row(f'{attention}.qkv.bias', biases, WithoutKeys())] if model.qkv_bias else []),
        Row('blocks.{i}.ls1.gamma', 'blocks.{i}.gamma_1'),
        Row('blocks.{i}.ls2.gamma', 'blocks.{i}.gamma_2'),
        Row('blocks.{i}.mlp.w1', 'blocks.{i}.mlp.fc1_g'),
        Row('blocks.{i}.mlp.w2', 'blocks.{i}.mlp.fc1_x'),
        Row('blocks.{i}.mlp.w3', 'blocks.{i}.mlp.fc2'),
        ALL,
    )


def constants(model: Any) -> dict[str, np.ndarray]:
    """The mask token, the periods of the rotary positions, and the masks of biases, with biases of zero."""
    width, quarter = model.embed_dim, model.embed_dim // model.num_heads // 4
    mask = np.repeat([1, 0, 1], width)
    found = {
        'mask_token': np.zeros((1, width)),
        'rope_embed.periods': model.rope_temperature ** (np.arange(quarter) / quarter),
    }
    for i in range(model.depth):
        found[f'blocks.{i}.attn.qkv.bias_mask'] = mask
        if not model.qkv_bias:
            found[f'blocks.{i}.attn.qkv.bias'] = 0 * mask
    return found


SOURCE = Source(
    'dinov3',
    "facebookresearch/dinov3's",
    (
        Family(
            'DINOv3',
            'Eva',
            ('cls_token', 'storage_tokens', 'patch_embed.proj'),
            rows,
            requires={
                'class_token': (True,),
                'num_reg_tokens': GIVEN,
                'use_abs_pos_emb': (False,),
                'use_rot_pos_emb': (True,),
                'rope_type': ('dinov3',),
                'rope_rotate_half': (True,),
                'rope_grid_offset': (0.0,),
                'rope_grid_indexing': ('ij',),
                'attn_type': ('eva',),
                'qkv_fused': (True,),
                'init_values': GIVEN,
                'attn_only_layer_scale': (False,),
                'use_post_norm': (False,),
                'num_classes': (0,),
                'norm': ('layer',),
            },
            # a norm of small crops in training, and the heads
            left_out=('local_cls_norm', 'dino_head', 'ibot_head'),
            left_out_zero=('blocks.{i}.attn.qkv.bias',),
            constants=constants,
        ),
    ),
    resampling=Resampling(),
)

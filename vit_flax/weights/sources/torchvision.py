"""torchvision's names: `vit_b_16` and its kin."""

from typing import Any

from vit_flax.blocks.positions import Resampling
from vit_flax.weights.rows import Row
from vit_flax.weights.source import Family, Shapes, Source, sizes_of

BLOCK = 'encoder.layers.encoder_layer_{i}'
ROWS = (
    Row('class_token', 'cls_token'),
    Row('conv_proj', 'patch_embed.proj'),
    Row('encoder.pos_embedding', 'pos_embed'),
    Row(f'{BLOCK}.ln_1', 'blocks.{i}.norm1'),
    Row(f'{BLOCK}.self_attention.in_proj_weight', 'blocks.{i}.attn.qkv.weight'),
    Row(f'{BLOCK}.self_attention.in_proj_bias', 'blocks.{i}.attn.qkv.bias'),
    Row(f'{BLOCK}.self_attention.out_proj', 'blocks.{i}.attn.proj'),
    Row(f'{BLOCK}.ln_2', 'blocks.{i}.norm2'),
    Row(f'{BLOCK}.mlp.0', 'blocks.{i}.mlp.fc1'),
    Row(f'{BLOCK}.mlp.3', 'blocks.{i}.mlp.fc2'),
    Row('encoder.ln', 'norm'),
    Row('heads.pre_logits', 'pre_logits.fc'),
    Row('heads.head', 'head'),
)
# Before 0.12.
OLDER = (Row(f'{BLOCK}.mlp.linear_1', f'{BLOCK}.mlp.0'), Row(f'{BLOCK}.mlp.linear_2', f'{BLOCK}.mlp.3'))


def configuration(shapes: Shapes) -> dict[str, Any]:
    """Sizes; a head is always there."""
    sizes = sizes_of(
        shapes,
        kernel='conv_proj.weight',
        positions='encoder.pos_embedding',
        block=BLOCK,
        hidden='encoder.layers.encoder_layer_0.mlp.0.weight',
        prefix=1,
        head='heads.head.weight',
    )
    pre_logits = shapes.get('heads.pre_logits.weight')
    return sizes | ({'representation_size': pre_logits[0]} if pre_logits else {})


SOURCE = Source(
    'torchvision',
    "torchvision's vit_b_16, vit_b_32, vit_l_16, vit_l_32 and vit_h_14",
    (
        Family(
            'VisionTransformer',
            'VisionTransformer',
            ('class_token', 'conv_proj', 'encoder.layers.encoder_layer_{i}'),
            lambda model: ROWS,
            requires={
                'class_token': (True,),
                'global_pool': ('token',),
                'fc_norm': (None, False),
                'distilled': (False,),
                'pos_embed': ('learn',),
                'qkv_bias': (True,),
                'proj_bias': (True,),
                'qk_scale': (None,),
                'norm': ('layer',),
                'mlp': ('mlp',),
            },
            vintages=OLDER,
            positions=1,
            configuration=configuration,
        ),
    ),
    resampling=Resampling(align_corners=True),
)

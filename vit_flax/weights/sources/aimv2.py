"""Names of apple/ml-aim: AIMv2, arXiv:2411.14402."""

from vit_flax.weights.rows import Row
from vit_flax.weights.source import Family, Source

BLOCK = 'trunk.blocks.{i}'
ROWS = (
    Row('preprocessor.patchifier', 'patch_embed'),
    Row('preprocessor.pos_embed', 'pos_embed'),
    Row(f'{BLOCK}.norm_1', 'blocks.{i}.norm1'),
    Row(f'{BLOCK}.attn', 'blocks.{i}.attn'),
    Row(f'{BLOCK}.norm_2', 'blocks.{i}.norm2'),
    Row(f'{BLOCK}.mlp.fc1', 'blocks.{i}.mlp.fc1_g'),
    Row(f'{BLOCK}.mlp.fc3', 'blocks.{i}.mlp.fc1_x'),
    Row(f'{BLOCK}.mlp.fc2', 'blocks.{i}.mlp.fc2'),
    Row('trunk.post_trunk_norm', 'norm'),
)

SOURCE = Source(
    'aimv2',
    "apple/ml-aim's AIMv2",
    (
        Family(
            'AIMv2',
            'VisionTransformer',
            ('preprocessor.patchifier', 'preprocessor.pos_embed', 'trunk.blocks'),
            lambda model: ROWS,
            requires={
                'class_token': (False,),
                'reg_tokens': (0,),
                'fc_norm': (False,),
                'global_pool': ('avg',),
                'num_classes': (0,),
                'pos_embed': ('learn',),
                'qk_scale': (None,),
                'norm': ('rms',),
                'embed_norm': (True,),
                'mlp': ('swiglu',),
            },
        ),
    ),
)

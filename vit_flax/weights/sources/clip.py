"""Names of CLIP's authors, which OpenCLIP kept: the image encoder of openai/CLIP, arXiv:2103.00020."""

from typing import Any

from vit_flax.blocks.weight_ops import Permute
from vit_flax.weights.rows import Rearrange, Row
from vit_flax.weights.source import Family, Shapes, Source, sizes_of

BLOCK = 'transformer.resblocks.{i}'
ROWS = (
    Row('class_embedding', 'cls_token', Rearrange('d -> 1 1 d')),
    Row('positional_embedding', 'pos_embed', Rearrange('n d -> 1 n d')),
    Row('conv1', 'patch_embed.proj'),
    Row('ln_pre', 'norm_pre'),
    Row(f'{BLOCK}.ln_1', 'blocks.{i}.norm1'),
    Row(f'{BLOCK}.attn.in_proj_weight', 'blocks.{i}.attn.qkv.weight'),
    Row(f'{BLOCK}.attn.in_proj_bias', 'blocks.{i}.attn.qkv.bias'),
    Row(f'{BLOCK}.attn.out_proj', 'blocks.{i}.attn.proj'),
    Row(f'{BLOCK}.ls_1', 'blocks.{i}.ls1'),
    Row(f'{BLOCK}.ln_2', 'blocks.{i}.norm2'),
    Row(f'{BLOCK}.mlp.c_fc', 'blocks.{i}.mlp.fc1'),
    Row(f'{BLOCK}.mlp.c_proj', 'blocks.{i}.mlp.fc2'),
    Row(f'{BLOCK}.ls_2', 'blocks.{i}.ls2'),
    Row('ln_post', 'norm'),
    # the projection to the space of texts and images
    Row('proj', 'head.weight', Permute((1, 0))),
)


def configuration(shapes: Shapes) -> dict[str, Any]:
    """As OpenAI trained them, with x sigmoid(1.702 x); OpenCLIP's later ones have GELU."""
    sizes = sizes_of(
        shapes,
        kernel='conv1.weight',
        positions='positional_embedding',
        block=BLOCK,
        hidden='transformer.resblocks.0.mlp.c_fc.weight',
        prefix=1,
    )
    classes = shapes['proj'][1] if 'proj' in shapes else 0
    return sizes | dict(num_classes=classes, pre_norm=True, norm_eps=1e-5, act='quick_gelu')


SOURCE = Source(
    'clip',
    "openai/CLIP's and OpenCLIP's image encoder",
    (
        Family(
            'image encoder',
            'VisionTransformer',
            ('class_embedding', 'conv1', 'ln_pre', 'transformer.resblocks'),
            lambda model: ROWS,
            requires={
                'pre_norm': (True,),
                'class_token': (True,),
                'global_pool': ('token',),
                'fc_norm': (None, False),
                'reg_tokens': (0,),
                'distilled': (False,),
                'representation_size': (None,),
                'pos_embed': ('learn',),
                'qkv_bias': (True,),
                'proj_bias': (True,),
                'qk_scale': (None,),
                'norm': ('layer',),
                'mlp': ('mlp',),
            },
            prefix='visual.',
            always_prefixed=True,
            # of the text encoder
            left_out=(
                'transformer',
                'token_embedding',
                'positional_embedding',
                'ln_final',
                'text_projection',
                'logit_scale',
                'logit_bias',
                'input_resolution',
                'context_length',
                'vocab_size',
            ),
            implied={'head.bias': 'head.weight'},
            positions=1,
            configuration=configuration,
        ),
    ),
)

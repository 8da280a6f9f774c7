"""Names of CLIP's authors, which OpenCLIP kept: the image encoder of openai/CLIP, arXiv:2103.00020."""

from vit_flax.blocks.weight_ops import Permute
from vit_flax.weights.rows import Rearrange, Row
from vit_flax.weights.source import Family, Source

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
            # no configuration: OpenAI's networks have x sigmoid(1.702 x), most of OpenCLIP's GELU, under the same names
        ),
    ),
)

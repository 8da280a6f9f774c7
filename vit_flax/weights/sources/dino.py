"""Names of facebookresearch/dino, arXiv:2104.14294: timm's; whole checkpoints hold a student and a teacher of them."""

from vit_flax.weights.rows import Row
from vit_flax.weights.source import Family, Source
from vit_flax.weights.sources.timm import configuration

# What the authors' vision transformers have in common, which was timm's at the time.
REQUIRES = {
    'pre_norm': (False,),
    'class_token': (True,),
    'reg_tokens': (0,),
    'pos_embed': ('learn',),
    'embed_norm': (False,),
    'qk_scale': (None,),
    'pool_include_prefix': (False,),
    'norm': ('layer',),
    'mlp': ('mlp',),
    'representation_size': (None,),
}
ALL = Row('', '')

SOURCE = Source(
    'dino',
    "facebookresearch/dino's",
    (
        Family(
            'ViT',
            'VisionTransformer',
            ('cls_token', 'patch_embed.proj', 'blocks.{i}.norm1'),
            lambda model: (ALL,),
            absent=('mask_token', 'blocks.{i}.gamma_1', 'blocks.{i}.ls1', 'dist_token', 'head_dist'),
            requires={**REQUIRES, 'distilled': (False,), 'init_values': (None,), 'num_classes': (0,)},
            # the projection on the prototypes
            left_out=('head.mlp', 'head.last_layer'),
            positions=1,
            configuration=configuration,
        ),
    ),
)

"""Names of facebookresearch/deit: DeiT, arXiv:2012.12877, and DeiT III, arXiv:2204.07118."""

from vit_flax.blocks.positions import Resampling
from vit_flax.weights.rows import Row
from vit_flax.weights.source import GIVEN, Family, Source
from vit_flax.weights.sources.dino import ALL, REQUIRES, configuration
from vit_flax.weights.sources.timm import OLDER

# LayerScale is a parameter of the block: as timm had it.
THREE = tuple(Row(row.theirs, row.ours, row.op) for row in OLDER)

SOURCE = Source(
    'deit',
    "facebookresearch/deit's, with and without distillation, and DeiT III",
    (
        Family(
            'DeiT III',
            'VisionTransformer',
            ('cls_token', 'patch_embed.proj', 'blocks.{i}.gamma_1'),
            lambda model: (*THREE, ALL),
            absent=('mask_token',),
            requires={**REQUIRES, 'distilled': (False,), 'init_values': GIVEN},
            head_requires={'global_pool': ('token',)},
            # no position of the class token
            positions=0,
            configuration=lambda shapes: configuration(shapes) | {'init_values': 1e-6},
        ),
        Family(
            'DeiT',
            'VisionTransformer',
            ('cls_token', 'patch_embed.proj', 'blocks.{i}.norm1'),
            lambda model: (ALL,),
            absent=('mask_token', 'blocks.{i}.gamma_1', 'blocks.{i}.ls1', 'dist_token'),
            requires={**REQUIRES, 'distilled': (False,), 'init_values': (None,)},
            head_requires={'global_pool': ('token',)},
            positions=1,
            configuration=configuration,
        ),
        Family(
            'distilled DeiT',
            'VisionTransformer',
            ('cls_token', 'dist_token', 'blocks.{i}.norm1'),
            lambda model: (ALL,),
            absent=('mask_token', 'blocks.{i}.gamma_1', 'blocks.{i}.ls1'),
            requires={**REQUIRES, 'distilled': (True,), 'init_values': (None,)},
            positions=2,
            configuration=configuration,
        ),
    ),
    resampling=Resampling(),
)

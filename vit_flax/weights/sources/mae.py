"""Names of facebookresearch/mae, arXiv:2111.06377: the encoder of a pretrained or fine-tuned network."""

from vit_flax.blocks.positions import Resampling
from vit_flax.weights.source import Family, Source
from vit_flax.weights.sources.dino import ALL, REQUIRES, configuration

SOURCE = Source(
    'mae',
    "facebookresearch/mae's",
    (
        Family(
            'encoder',
            'VisionTransformer',
            ('cls_token', 'patch_embed.proj', 'blocks.{i}.norm1'),
            lambda model: (ALL,),
            absent=('blocks.{i}.gamma_1', 'blocks.{i}.ls1', 'dist_token', 'register_tokens'),
            requires={**REQUIRES, 'distilled': (False,), 'init_values': (None,)},
            head_requires={'global_pool': ('token', 'avg')},
            left_out=(
                'mask_token',
                'decoder_embed',
                'decoder_pos_embed',
                'decoder_blocks',
                'decoder_norm',
                'decoder_pred',
            ),
            positions=1,
            configuration=configuration,
        ),
    ),
    resampling=Resampling(),
)

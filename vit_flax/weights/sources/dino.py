"""Names of facebookresearch/dino, arXiv:2104.14294: timm's; whole checkpoints hold a student and a teacher of them."""

from typing import Any

from vit_flax.blocks.positions import Resampling
from vit_flax.weights.rows import Row
from vit_flax.weights.source import Family, Shapes, Source, sizes_of

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


def configuration(shapes: Shapes) -> dict[str, Any]:
    """Arguments of a plain network."""
    registers = shapes['reg_token'][1] if 'reg_token' in shapes else 0
    class_token, distilled = 'cls_token' in shapes, 'dist_token' in shapes
    prefix = class_token + distilled + registers
    patches = shapes['pos_embed'][1]
    # the table has no rows for these tokens if it is a square without them
    embeds = round((patches - prefix) ** 0.5) ** 2 == patches - prefix
    pooled = 'fc_norm.weight' in shapes
    pooling = 'map' if 'attn_pool.latent' in shapes else 'avg' if pooled or not class_token else 'token'
    given = dict(
        sizes_of(
            shapes,
            kernel='patch_embed.proj.weight',
            positions='pos_embed',
            block='blocks.{i}',
            hidden='blocks.0.mlp.fc1.weight',
            prefix=prefix if embeds else 0,
            head='head.weight',
        ),
        class_token=class_token,
        distilled=distilled,
        reg_tokens=registers,
        no_embed_class=not embeds,
        global_pool=pooling,
        qkv_bias='blocks.0.attn.qkv.bias' in shapes,
        pre_norm='norm_pre.weight' in shapes,
    )
    if pooled != (pooling == 'avg'):
        given['fc_norm'] = pooled
    return given | ({'init_values': 1e-5} if 'blocks.0.ls1.gamma' in shapes else {})


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
    resampling=Resampling(offset=0.1),
)

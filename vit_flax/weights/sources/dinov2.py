"""Names of facebookresearch/dinov2, arXiv:2304.07193, with registers too, arXiv:2309.16588; TIPSv2 has them as well."""

from typing import Any

import numpy as np

from vit_flax.blocks.positions import Resampling
from vit_flax.weights.rows import Row
from vit_flax.weights.source import GIVEN, Family, Shapes, Source, mlp_ratio_of
from vit_flax.weights.sources.dino import ALL, REQUIRES, configuration

GATED = (Row('blocks.{i}.mlp.w12', 'blocks.{i}.mlp.fc1'), Row('blocks.{i}.mlp.w3', 'blocks.{i}.mlp.fc2'))
# Training in FSDP has blocks in chunks, numbered throughout.
CHUNKS = (Row('blocks.{chunk}.{i}', 'blocks.{i}'),)


def rows(model: Any) -> tuple[Row, ...]:
    gated = GATED if model.mlp == 'swiglu_packed' else ()
    return *gated, Row('register_tokens', 'reg_token'), ALL


def arguments(shapes: Shapes) -> dict[str, Any]:
    """Of a network without a head."""
    gated = 'blocks.0.mlp.w12.weight' in shapes
    named = {name.replace('mlp.w12', 'mlp.fc1'): shape for name, shape in shapes.items()}
    found = configuration(named) | {'init_values': 1e-5, 'num_classes': 0, 'no_embed_class': False}
    found['reg_tokens'] = shapes['register_tokens'][1] if 'register_tokens' in shapes else 0
    if gated:
        hidden, width = shapes['blocks.0.mlp.w12.weight']
        found |= {'mlp': 'swiglu_packed', 'act': 'silu', 'mlp_ratio': mlp_ratio_of(hidden, width)}
    return found


SOURCE = Source(
    'dinov2',
    "facebookresearch/dinov2's, with and without registers, and TIPSv2's image encoder",
    (
        Family(
            'DINOv2',
            'VisionTransformer',
            ('cls_token', 'patch_embed.proj', 'mask_token', 'pos_embed'),
            rows,
            absent=('decoder_embed',),
            requires={
                **{name: values for name, values in REQUIRES.items() if name not in ('mlp', 'reg_tokens')},
                'mlp': ('mlp', 'swiglu_packed'),
                'distilled': (False,),
                'init_values': GIVEN,
                'num_classes': (0,),
            },
            vintages=CHUNKS,
            # the heads of training
            left_out=('dino_head', 'ibot_head'),
            constants=lambda model: {'mask_token': np.zeros((1, model.embed_dim))},
            positions=1,
            configuration=arguments,
        ),
    ),
    resampling=Resampling(offset=0.1),
)

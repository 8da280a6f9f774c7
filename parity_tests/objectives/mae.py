from functools import partial

import torch

from parity_tests.case import Input, Refused, Submodule, image, video
from parity_tests.masked_images import (
    DEEPVIT,
    SIMPLE_VIT,
    SMALL,
    VIT,
    VIT_3D,
    VIT_MEAN,
    positions_in_float64,
    positions_with_batch_axis,
    split,
    tubes,
)
from parity_tests.objective_case import ObjectiveCase
from parity_tests.upstream import TorchWith, ranks

OBJECTIVE = 'MAE'
DECODER = dict(decoder_dim=18, decoder_depth=2, decoder_heads=2, decoder_dim_head=7)


def draw_these(module, call):
    """Upstream sorts uniform numbers, and hides those that come first."""
    drawn = ranks(torch.cat([call['masked'], call['visible']], dim=1))
    return {'torch': TorchWith(rand=lambda *size, device: drawn, zeros=partial(torch.zeros, dtype=torch.float64))}


UPSTREAM = dict(upstream_patch=draw_these)

CASES = [
    ObjectiveCase(
        name='vit',
        kwargs=dict(encoder=VIT, **DECODER),
        inputs=image(2, 24, 36, 3),
        draw=lambda rng: split(rng, 24, 18),
        parameters=19_053,
        unused=('encoder/(cls_token|mlp_head/.*)',),
        upstream_fails=RuntimeError,
        upstream_mend=positions_with_batch_axis,
        **UPSTREAM,
    ),
    ObjectiveCase(
        name='vit_mean_equal_widths',
        kwargs=dict(encoder=VIT_MEAN, decoder_dim=20, masking_ratio=0.6, decoder_heads=1, decoder_dim_head=20),
        inputs=image(2, 24, 36, 3),
        draw=lambda rng: split(rng, 24, 14),
        parameters=13_199,
        unused=('encoder/mlp_head/.*',),
        optimizer='sgd',
        **UPSTREAM,
    ),
    ObjectiveCase(
        name='simple_vit',
        kwargs=dict(encoder=SIMPLE_VIT, **DECODER),
        inputs=image(2, 24, 36, 3),
        draw=lambda rng: split(rng, 24, 18),
        parameters=18_475,
        unused=('encoder/linear_head/.*',),
        upstream_prepare=positions_in_float64,
        **UPSTREAM,
    ),
    ObjectiveCase(
        name='deepvit',
        kwargs=dict(encoder=DEEPVIT, decoder_dim=14, decoder_heads=3, decoder_dim_head=5),
        inputs=image(2, 24, 24, 3),
        draw=lambda rng: split(rng, 16, 12),
        parameters=10_448,
        unused=('encoder/(cls_token|mlp_head/.*)',),
        **UPSTREAM,
    ),
    ObjectiveCase(
        name='vit_3d_tubes',
        kwargs=dict(encoder=VIT_3D, decoder_dim=14, decoder_heads=2, decoder_dim_head=5),
        inputs=video(2, 6, 9, 20, 3),
        draw=lambda rng: tubes(rng, 3, 15, 11),
        parameters=9_807,
        unused=('encoder/(cls_token|mlp_head/.*)',),
        **UPSTREAM,
    ),
    ObjectiveCase(
        name='smaller_image_grey',
        kwargs=dict(encoder=Submodule('models.vit', 'ViT', {**SMALL, 'channels': 1, 'depth': 1}), **DECODER),
        inputs=image(2, 16, 27, 1),
        draw=lambda rng: split(rng, 12, 9),
        parameters=13_393,
        unused=('encoder/(cls_token|mlp_head/.*)',),
        upstream_fails=RuntimeError,
        upstream_mend=positions_with_batch_axis,
        **UPSTREAM,
    ),
    ObjectiveCase(
        name='normalised_pixels_class_token',
        kwargs=dict(encoder=VIT, **DECODER, norm_pixels=True, class_token=True),
        inputs=image(2, 24, 36, 3),
        draw=lambda rng: split(rng, 24, 18),
        parameters=19_053,
        unused=('encoder/mlp_head/.*',),
        upstream_fails=TypeError,
    ),
]

REFUSED = [
    Refused(
        says=r'masking_ratio=1.0 must be between 0 and 1',
        kwargs=dict(encoder=VIT, **DECODER, masking_ratio=1.0),
        inputs=image(2, 24, 36, 3),
    ),
    Refused(
        says=r'masking_ratio=0.01 masks none of 24 patches',
        kwargs=dict(encoder=VIT, **DECODER, masking_ratio=0.01),
        inputs=image(2, 24, 36, 3),
    ),
    Refused(
        says=r"masking='tubes' must be one of 'random', 'tube'",
        kwargs=dict(encoder=VIT, **DECODER, masking='tubes'),
        inputs=image(2, 24, 36, 3),
    ),
    Refused(
        says=r"masking='tube' masks the same positions at every step of a video, and the patches have 2 axes",
        kwargs=dict(encoder=VIT, **DECODER, masking='tube'),
        inputs=image(2, 24, 36, 3),
    ),
    Refused(
        says=r'encoder=XCiT cannot be trained on its patches, since it does not embed them one by one',
        kwargs=dict(
            encoder=Submodule(
                'models.xcit',
                'XCiT',
                dict(image_size=24, patch_size=6, num_classes=7, dim=20, depth=1, cls_depth=1, heads=3, mlp_dim=28),
            ),
            **DECODER,
        ),
        inputs=image(2, 24, 24, 3),
    ),
    Refused(says=r'expected input of layout \[b h w c\]', kwargs=dict(encoder=VIT, **DECODER), inputs=image(24, 36, 3)),
    Refused(
        says='class_token=True: encoder=SimpleViT has no token before its patches',
        kwargs=dict(encoder=SIMPLE_VIT, **DECODER, class_token=True),
        inputs=image(2, 24, 36, 3),
    ),
    Refused(
        says=r'masked and visible must be given both, or neither',
        kwargs=dict(encoder=VIT, **DECODER),
        inputs=(*image(2, 24, 36, 3), Input((2, 18), 'b n')),
    ),
]

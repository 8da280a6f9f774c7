from parity_tests.case import Case, Refused, image
from vit_torch_ref.models.simple_vit import sincos_2d

SMALL = dict(
    image_size=24,
    patch_size=8,
    highres_patch_size=4,
    num_classes=7,
    dim=20,
    depth=2,
    heads=3,
    dim_head=6,
    mlp_factor=2,
    cross_attn_heads=2,
    cross_attn_dim_head=9,
    highres_mlp_factor=1.5,
    patch_conv_kernel_size=3,
    dropout=0.0,
)


def table_in_float64(module, call):
    """Upstream takes the sines of its table in float32."""
    return {'posemb_sincos_2d': lambda tokens: sincos_2d(*tokens.shape[1:])}


SHARED = dict(unused=('pos_embedding',), upstream_patch=table_in_float64)

CASES = [
    Case(name='eval', kwargs=SMALL, inputs=image(2, 24, 24, 3), parameters=22_880, **SHARED),
    Case(
        name='train_uneven_sizes',
        kwargs={**SMALL, 'image_size': 30, 'patch_size': 10, 'highres_patch_size': 6, 'depth': 1, 'channels': 1},
        inputs=image(2, 30, 30, 1),
        parameters=13_850,
        train=True,
        **SHARED,
    ),
    Case(
        name='rectangular',
        kwargs={
            **SMALL,
            'image_size': (24, 36),
            'patch_size': (8, 12),
            'highres_patch_size': (4, 9),
            'depth': 1,
            'channels': 4,
        },
        inputs=image(2, 24, 36, 4),
        parameters=33_270,
        upstream_fails=TypeError,
        **SHARED,
    ),
]

REFUSED = [
    Refused(
        says=r'image_size for highres_patch_size=\(24, 24\) is not divisible by patch_size=\(5, 5\)',
        kwargs={**SMALL, 'highres_patch_size': 5},
        inputs=image(2, 24, 24, 3),
    ),
    Refused(
        says=r'highres_patch_size=8 must be smaller than patch_size=8',
        kwargs={**SMALL, 'highres_patch_size': 8},
        inputs=image(2, 24, 24, 3),
    ),
    Refused(
        says=r'patch_conv_kernel_size=4 must be odd',
        kwargs={**SMALL, 'patch_conv_kernel_size': 4},
        inputs=image(2, 24, 24, 3),
    ),
    Refused(
        says=r'images of shape \(2, 16, 24, 3\) must be of image_size=\(24, 24\)',
        kwargs=SMALL,
        inputs=image(2, 16, 24, 3),
    ),
    Refused(says=r'dim=22 must be a multiple of 4', kwargs={**SMALL, 'dim': 22}, inputs=image(2, 24, 24, 3)),
    Refused(says=r'expected 3 channels in the last axis', kwargs=SMALL, inputs=image(2, 24, 24, 1)),
]

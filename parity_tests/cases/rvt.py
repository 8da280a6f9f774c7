from parity_tests.case import Case, Refused, image

SMALL = dict(image_size=24, patch_size=4, num_classes=7, dim=20, depth=2, heads=3, dim_head=10, mlp_dim=28)
FLOAT32_PLACES = dict(
    upstream_tolerance=1e-6,
    upstream_reason='upstream computes the coordinates of the patches in float32, the reference in float64',
)


def last_queries(depth):
    """The class token alone is classified, so that the patches of the last block ask for nothing."""
    return (f'transformer/block_{depth - 1}/attention/to_q/(depthwise|pointwise)/kernel',)


CASES = [
    Case(
        name='all',
        kwargs=SMALL,
        inputs=image(2, 24, 24, 3),
        unused=last_queries(2),
        parameters=11_959,
        **FLOAT32_PLACES,
    ),
    Case(
        name='no_glu_other_image',
        kwargs={**SMALL, 'use_glu': False, 'depth': 1, 'channels': 1, 'heads': 2},
        inputs=image(2, 28, 28, 1),
        parameters=3_915,
        unused=last_queries(1),
        train=True,
        **FLOAT32_PLACES,
    ),
    Case(
        name='no_conv',
        kwargs={**SMALL, 'use_ds_conv': False, 'depth': 1},
        inputs=image(2, 16, 16, 3),
        parameters=5_443,
        **FLOAT32_PLACES,
    ),
    Case(
        name='no_rotary',
        kwargs={**SMALL, 'use_rotary': False, 'depth': 1},
        inputs=image(2, 16, 28, 3),
        unused=last_queries(1),
        parameters=6_573,
    ),
    Case(
        name='rectangular',
        kwargs={**SMALL, 'image_size': (24, 36), 'patch_size': (4, 9), 'depth': 1},
        inputs=image(2, 20, 45, 3),
        parameters=7_773,
        unused=last_queries(1),
        upstream_fails=TypeError,
    ),
]

REFUSED = [
    Refused(says=r'image_size=\(26, 26\) is not', kwargs={**SMALL, 'image_size': 26}, inputs=image(2, 26, 26, 3)),
    Refused(says=r'the images=\(24, 30\) is not divisible', kwargs=SMALL, inputs=image(2, 24, 30, 3)),
]

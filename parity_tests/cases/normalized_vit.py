from parity_tests.case import Case, Refused, image

SMALL = dict(image_size=(24, 36), patch_size=6, num_classes=7, dim=20, depth=2, heads=3, dim_head=6, mlp_dim=28)

CASES = [
    Case(name='eval', kwargs=SMALL, inputs=image(2, 24, 36, 3), parameters=8_051),
    Case(
        name='train_smaller_four_channels',
        kwargs={**SMALL, 'channels': 4, 'residual_lerp_scale_init': 0.3, 'depth': 1},
        inputs=image(2, 18, 24, 4),
        parameters=6_139,
        train=True,
    ),
    Case(
        name='rectangular_patches_grey',
        kwargs={**SMALL, 'patch_size': (6, 4), 'channels': 1, 'depth': 1},
        inputs=image(2, 24, 36, 1),
        parameters=3_979,
        upstream_fails=TypeError,
    ),
]

REFUSED = [
    Refused(
        says=r'image_size=\(25, 36\) is not divisible',
        kwargs={**SMALL, 'image_size': (25, 36)},
        inputs=image(2, 24, 36, 3),
    ),
    Refused(says=r'images=\(24, 33\) is not divisible by patch_size', kwargs=SMALL, inputs=image(2, 24, 33, 3)),
    Refused(says=r'have 28 patches, image_size=\(24, 36\) has', kwargs=SMALL, inputs=image(2, 24, 42, 3)),
    Refused(says=r'expected 3 channels in the last axis', kwargs=SMALL, inputs=image(2, 24, 36, 1)),
]

from parity_tests.case import Case, Refused, image

SMALL = dict(
    image_size=32,
    patch_size=4,
    num_classes=7,
    dim=10,
    heads=3,
    num_hierarchies=2,
    block_repeats=(1, 2),
    mlp_mult=2,
)

CASES = [
    Case(name='square', kwargs=SMALL, inputs=image(2, 32, 32, 3), parameters=9_925),
    Case(
        name='smaller_image_grey',
        kwargs={**SMALL, 'channels': 1, 'block_repeats': 1, 'num_hierarchies': 3},
        inputs=image(2, 16, 32, 1),
        parameters=26_301,
    ),
    Case(
        name='rectangular',
        kwargs={**SMALL, 'image_size': (16, 24), 'patch_size': (4, 2), 'block_repeats': 1},
        inputs=image(2, 16, 24, 3),
        parameters=6_429,
        train=True,
        upstream_fails=TypeError,
    ),
    Case(
        name='paper_positions',
        kwargs={**SMALL, 'block_repeats': 1, 'paper_positions': True},
        inputs=image(2, 32, 32, 3),
        parameters=7_653,
        upstream_fails=TypeError,
    ),
]

REFUSED = [
    Refused(
        says=r'image_size=\(34, 34\) is not divisible by patch_size',
        kwargs={**SMALL, 'image_size': 34},
        inputs=image(2, 34, 34, 3),
    ),
    Refused(
        says=r'has 8 x 6 patches, which num_hierarchies=3 cannot cut into 4 x 4 blocks',
        kwargs={**SMALL, 'image_size': (32, 24), 'num_hierarchies': 3, 'block_repeats': 1},
        inputs=image(2, 32, 24, 3),
    ),
    Refused(
        says=r'block_repeats=\(1, 2\) must be one value, or one for each of the 3 stages',
        kwargs={**SMALL, 'num_hierarchies': 3},
        inputs=image(2, 32, 32, 3),
    ),
    Refused(
        says=r'blocks of 24 positions are larger than those of image_size, which have 16',
        kwargs=SMALL,
        inputs=image(2, 32, 48, 3),
    ),
    Refused(says=r'the feature map of 8 x 7 cannot be cut into blocks', kwargs=SMALL, inputs=image(2, 32, 28, 3)),
    Refused(
        says=r'expected 3 channels in the last axis, got shape \(2, 32, 32, 1\)',
        kwargs=SMALL,
        inputs=image(2, 32, 32, 1),
    ),
]

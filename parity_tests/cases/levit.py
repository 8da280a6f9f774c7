from parity_tests.case import Case, Refused, image

SMALL = dict(
    image_size=48,
    num_classes=7,
    dim=(12, 18),
    depth=1,
    heads=(2, 3),
    mlp_mult=3,
    stages=2,
    dim_key=4,
    dim_value=5,
)

CASES = [
    Case(name='eval', kwargs=SMALL, inputs=image(2, 48, 48, 3), parameters=114_327),
    Case(name='train', kwargs={**SMALL, 'depth': (2, 1)}, inputs=image(2, 48, 48, 3), parameters=115_777, train=True),
    Case(
        name='distill',
        kwargs={**SMALL, 'dim': 12, 'stages': 3, 'image_size': 80, 'num_distill_classes': 9},
        inputs=image(2, 80, 80, 3),
        parameters=116_031,
    ),
    Case(
        name='rectangular_grey',
        kwargs={**SMALL, 'image_size': (48, 80), 'channels': 1},
        inputs=image(2, 48, 80, 1),
        parameters=113_793,
        upstream_fails=TypeError,
    ),
    Case(
        name='paper_bias',
        kwargs={**SMALL, 'paper_bias': True},
        inputs=image(2, 48, 48, 3),
        parameters=114_327,
        upstream_fails=TypeError,
    ),
]

REFUSED = [
    Refused(
        says=r'image_size=\(48, 56\) must be multiples of 16',
        kwargs={**SMALL, 'image_size': (48, 56)},
        inputs=image(2, 48, 56, 3),
    ),
    Refused(
        says=r'images of shape \(2, 64, 48, 3\) do not have image_size=\(48, 48\)',
        kwargs=SMALL,
        inputs=image(2, 64, 48, 3),
    ),
    Refused(
        says=r'heads=\(1, 2, 3\) must be one value, or one for each of the 2 stages',
        kwargs={**SMALL, 'heads': (1, 2, 3)},
        inputs=image(2, 48, 48, 3),
    ),
    Refused(
        says=r'expected 3 channels in the last axis, got shape \(2, 48, 48, 1\)',
        kwargs=SMALL,
        inputs=image(2, 48, 48, 1),
    ),
]

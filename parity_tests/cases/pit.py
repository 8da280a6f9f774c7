from parity_tests.case import Case, Refused, image

SMALL = dict(image_size=24, patch_size=6, num_classes=7, dim=10, depth=(1, 1), heads=3, dim_head=6, mlp_dim=28)

CASES = [
    Case(name='two_stages', kwargs=SMALL, inputs=image(2, 24, 24, 3), parameters=6_703),
    Case(
        name='three_stages',
        kwargs={**SMALL, 'depth': (1, 2, 1), 'heads': (1, 2, 4), 'dim_head': 10, 'mlp_dim': 9},
        inputs=image(2, 24, 24, 3),
        parameters=17_773,
        train=True,
    ),
    Case(
        name='odd_patch_smaller_image',
        kwargs={**SMALL, 'image_size': 35, 'patch_size': 5, 'depth': (1,), 'channels': 4},
        inputs=image(2, 25, 25, 4),
        parameters=5_055,
    ),
    Case(
        name='rectangular_grey',
        kwargs={**SMALL, 'image_size': (24, 36), 'patch_size': (6, 4), 'channels': 1},
        inputs=image(2, 24, 36, 1),
        parameters=6_563,
        upstream_fails=TypeError,
    ),
]

REFUSED = [
    Refused(
        says=r'depth=2 must be a sequence, each an integer at least 0',
        kwargs={**SMALL, 'depth': 2},
        inputs=image(2, 24, 24, 3),
    ),
    Refused(
        says=r'heads=\(2, 4, 8\) must be one number or 2, one for each stage',
        kwargs={**SMALL, 'heads': (2, 4, 8)},
        inputs=image(2, 24, 24, 3),
    ),
    Refused(
        says=r'image_size=\(26, 26\) is not divisible', kwargs={**SMALL, 'image_size': 26}, inputs=image(2, 26, 26, 3)
    ),
    Refused(says=r'patch_size=1 must be at least 2', kwargs={**SMALL, 'patch_size': 1}, inputs=image(2, 24, 24, 3)),
    Refused(says=r'images=\(24, 22\) is not divisible by patch_size', kwargs=SMALL, inputs=image(2, 24, 22, 3)),
    Refused(says=r'expected 3 channels in the last axis', kwargs=SMALL, inputs=image(2, 24, 24, 4)),
]

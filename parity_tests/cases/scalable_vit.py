from parity_tests.case import Case, Refused, image

SMALL = dict(
    num_classes=7,
    dim=6,
    depth=(1, 1),
    heads=(2, 3),
    reduction_factor=(3, 1),
    window_size=(2, None),
    iwsa_dim_key=3,
    iwsa_dim_value=(4, 5),
    ssa_dim_key=(5, 2),
    ssa_dim_value=7,
    ff_expansion_factor=2,
)

CASES = [
    Case(name='two_stages', kwargs=SMALL, inputs=image(2, 24, 32, 3), parameters=9_039),
    Case(
        name='two_blocks_grey',
        kwargs=dict(
            num_classes=7, dim=6, depth=(2,), heads=3, reduction_factor=2, iwsa_dim_key=4, channels=1, window_size=3
        ),
        inputs=image(2, 22, 34, 1),
        parameters=182_005,
        train=True,
    ),
    Case(
        name='paper_order',
        kwargs={**SMALL, 'paper_order': True},
        inputs=image(2, 24, 32, 3),
        parameters=9_039,
        upstream_fails=TypeError,
    ),
]

REFUSED = [
    Refused(
        says=r'window_size=\(2, 2\) does not divide the feature map of 7 x 8',
        kwargs=SMALL,
        inputs=image(2, 28, 32, 3),
    ),
    Refused(
        says=r'reduction_factor=9 leaves nothing of the feature map of 6 x 8',
        kwargs={**SMALL, 'reduction_factor': 9},
        inputs=image(2, 24, 32, 3),
    ),
    Refused(
        says=r'heads=\(2, 3, 4\) must be one value, or one for each of the 2 stages',
        kwargs={**SMALL, 'heads': (2, 3, 4)},
        inputs=image(2, 24, 32, 3),
    ),
    Refused(says=r'depth=2 must be a sequence', kwargs={**SMALL, 'depth': 2}, inputs=image(2, 24, 32, 3)),
    Refused(
        says=r'expected 3 channels in the last axis, got shape \(2, 24, 32, 1\)',
        kwargs=SMALL,
        inputs=image(2, 24, 32, 1),
    ),
]

from parity_tests.case import Case, Refused, image

SMALL = dict(image_size=(24, 36), patch_size=(4, 9), num_classes=7, dim=20, depth=2, heads=3, dim_head=6, mlp_dim=28)

CASES = [
    Case(name='two_branches', kwargs=SMALL, inputs=image(2, 24, 36, 3), parameters=13_719),
    Case(
        name='three_branches_mean',
        kwargs={**SMALL, 'num_parallel_branches': 3, 'pool': 'mean', 'depth': 1},
        inputs=image(2, 16, 27, 3),
        parameters=11_011,
        train=True,
    ),
    Case(
        name='no_output_projection',
        kwargs={**SMALL, 'heads': 1, 'dim_head': 20, 'depth': 1, 'num_parallel_branches': 1, 'channels': 1},
        inputs=image(2, 24, 36, 1),
        parameters=3_895,
    ),
]

REFUSED = [
    Refused(
        says='num_parallel_branches=0 must be at least 1',
        kwargs={**SMALL, 'num_parallel_branches': 0},
        inputs=image(2, 24, 36, 3),
    ),
    Refused(says=r'expected 3 channels in the last axis', kwargs=SMALL, inputs=image(2, 24, 36, 1)),
]

from parity_tests.case import Case, Refused, image

SMALL = dict(image_size=(24, 36), patch_size=4, num_classes=7, dim=20, depth=2, heads=3, dim_head=6, mlp_dim=28)
SPT = dict(dim=20, patch_size=6, channels=1)

CASES = [
    Case(name='cls', kwargs=SMALL, inputs=image(2, 24, 36, 3), parameters=12_025),
    Case(
        name='mean',
        kwargs={**SMALL, 'pool': 'mean', 'depth': 1, 'channels': 1},
        inputs=image(2, 16, 28, 1),
        parameters=5_796,
        train=True,
    ),
    Case(
        name='rectangular_patches',
        kwargs={**SMALL, 'patch_size': (4, 9), 'depth': 1},
        inputs=image(2, 24, 36, 3),
        parameters=15_316,
        upstream_fails=TypeError,
    ),
    Case(name='tokenizer_alone', model='SPT', kwargs=SPT, inputs=image(2, 18, 24, 1), parameters=3_980),
    Case(
        name='tokenizer_of_the_paper',
        model='SPT',
        kwargs={**SPT, 'patch_size': (6, 4), 'paper_shifts': True},
        inputs=image(2, 18, 20, 1),
        parameters=2_660,
        upstream_fails=TypeError,
    ),
]

REFUSED = [
    Refused(says=r'divisible by patch_size=\(5, 5\)', kwargs={**SMALL, 'patch_size': 5}, inputs=image(2, 24, 36, 3)),
    Refused(says='expected 1 channels', model='SPT', kwargs=SPT, inputs=image(2, 18, 24, 3)),
]

from parity_tests.case import Case, Refused, Submodule, image

SMALL = dict(
    image_size=24,
    num_classes=7,
    dim=20,
    depth=2,
    heads=3,
    dim_head=6,
    mlp_dim=28,
    t2t_layers=((3, 2), (3, 2)),
)
NO_TRUNK = {name: value for name, value in SMALL.items() if name not in ('depth', 'heads', 'dim_head', 'mlp_dim')}

CASES = [
    Case(name='cls', kwargs=SMALL, inputs=image(2, 24, 24, 3), parameters=15_104),
    Case(
        name='mean_three_splits_smaller_image',
        kwargs={**SMALL, 'image_size': 32, 'pool': 'mean', 'channels': 1, 't2t_layers': ((5, 3), (2, 1), (3, 2))},
        inputs=image(2, 25, 25, 1),
        parameters=78_288,
        train=True,
    ),
    Case(
        name='another_transformer',
        kwargs={
            **NO_TRUNK,
            'transformer': Submodule(
                'transformers.nystromformer',
                'Nystromformer',
                dict(dim=20, depth=1, dim_head=6, heads=2, num_landmarks=4),
                upstream='nystrom_attention',
            ),
        },
        inputs=image(2, 24, 24, 3),
        parameters=14_074,
    ),
    Case(
        name='rectangular',
        kwargs={**SMALL, 'image_size': (24, 36), 'depth': 1},
        inputs=image(2, 24, 36, 3),
        parameters=12_756,
        upstream_fails=TypeError,
    ),
]

REFUSED = [
    Refused(
        says=r'depth=None, heads=3 and mlp_dim=28 must all be given, or a transformer',
        kwargs={**SMALL, 'depth': None},
        inputs=image(2, 24, 24, 3),
    ),
    Refused(
        says=r"pool='max' is unknown: use one of 'cls', 'mean'",
        kwargs={**SMALL, 'pool': 'max'},
        inputs=image(2, 24, 24, 3),
    ),
    Refused(
        says=r'image_size=3 is too small for t2t_layers=',
        kwargs={**SMALL, 'image_size': 3, 't2t_layers': ((3, 2), (7, 2))},
        inputs=image(2, 3, 3, 3),
    ),
    Refused(says=r'have 42 patches, image_size=24 has positions for 36', kwargs=SMALL, inputs=image(2, 24, 28, 3)),
    Refused(says=r'expected 3 channels in the last axis', kwargs=SMALL, inputs=image(2, 24, 24, 4)),
]

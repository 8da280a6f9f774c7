from parity_tests.case import Case, Refused, image

SMALL = dict(image_size=24, patch_size=4, num_classes=7, dim=20, depth=2, heads=3, dim_head=6, mlp_dim=28)

CASES = [
    Case(name='cls', kwargs=SMALL, inputs=image(2, 24, 24, 3), parameters=7_509),
    Case(name='mean', kwargs={**SMALL, 'pool': 'mean', 'depth': 1}, inputs=image(2, 16, 20, 3), parameters=4_786),
    Case(
        name='one_head_grey',
        kwargs={**SMALL, 'heads': 1, 'dim_head': 20, 'channels': 1},
        inputs=image(2, 24, 24, 1),
        parameters=7_101,
        train=True,
    ),
    Case(
        name='rectangular',
        kwargs={**SMALL, 'image_size': (24, 36), 'patch_size': (4, 9), 'depth': 1},
        inputs=image(2, 24, 36, 3),
        parameters=5_866,
        upstream_fails=TypeError,
    ),
]

REFUSED = [
    Refused(
        says=r'image_size=\(26, 26\) is not divisible', kwargs={**SMALL, 'image_size': 26}, inputs=image(2, 26, 26, 3)
    ),
    Refused(says=r"pool='max' is unknown", kwargs={**SMALL, 'pool': 'max'}, inputs=image(2, 24, 24, 3)),
    Refused(says=r'have 42 patches, image_size=24 has positions for 36', kwargs=SMALL, inputs=image(2, 28, 24, 3)),
]

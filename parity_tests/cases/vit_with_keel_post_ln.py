from parity_tests.case import Case, Refused, image

SMALL = dict(image_size=(24, 36), patch_size=(4, 9), num_classes=7, dim=20, depth=3, heads=3, dim_head=6, mlp_dim=28)

CASES = [
    Case(name='cls', kwargs=SMALL, inputs=image(2, 24, 36, 3), parameters=11_207),
    Case(
        name='mean_scaled',
        kwargs={**SMALL, 'pool': 'mean', 'depth': 2, 'keel_residual_scale': 1.5, 'channels': 1},
        inputs=image(2, 20, 27, 1),
        parameters=6_875,
        train=True,
    ),
    Case(name='tokens', kwargs={**SMALL, 'num_classes': 0, 'depth': 2}, inputs=image(2, 24, 36, 3), parameters=8_352),
]

REFUSED = [
    Refused(says='depth=1 must be at least 2', kwargs={**SMALL, 'depth': 1}, inputs=image(2, 24, 36, 3)),
    Refused(says=r"pool='max' is unknown", kwargs={**SMALL, 'pool': 'max'}, inputs=image(2, 24, 36, 3)),
]

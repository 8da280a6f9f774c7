from parity_tests.case import Case, Refused, image

SMALL = dict(image_size=24, patch_size=4, num_classes=7, dim=20, depth=2, heads=3, dim_head=8, mlp_dim=28)

CASES = [
    Case(name='registers', kwargs=SMALL, inputs=image(2, 24, 24, 3), parameters=8_475),
    Case(
        name='no_registers_smaller_image',
        kwargs={**SMALL, 'num_registers': 0, 'channels': 1, 'depth': 1},
        inputs=image(2, 16, 16, 1),
        parameters=4_471,
        train=True,
    ),
    Case(
        name='no_output_projection',
        kwargs={**SMALL, 'heads': 1, 'dim_head': 20, 'depth': 1, 'num_registers': 3, 'num_classes': 0},
        inputs=image(2, 24, 24, 3),
        parameters=4_368,
    ),
    Case(
        name='rectangular',
        kwargs={**SMALL, 'image_size': (24, 36), 'patch_size': (4, 9), 'depth': 1},
        inputs=image(2, 20, 36, 3),
        parameters=6_231,
        upstream_fails=RuntimeError,
    ),
]

REFUSED = [
    Refused(says='dim_head=6 must be a multiple of 4', kwargs={**SMALL, 'dim_head': 6}, inputs=image(2, 24, 24, 3)),
    Refused(says=r'have 42 patches, image_size=24 has positions for 36', kwargs=SMALL, inputs=image(2, 28, 24, 3)),
]

from parity_tests.case import Case, Refused, image
from parity_tests.upstream import tables_in_float64

SMALL = dict(image_size=(24, 36), patch_size=(4, 9), num_classes=7, dim=20, depth=2, heads=3, dim_head=6, mlp_dim=28)
# upstream takes the sines of its table in float32, which differ between builds of torch
FLOAT32_TABLE = dict(upstream_patch=tables_in_float64)

CASES = [
    Case(name='rectangular', kwargs=SMALL, inputs=image(2, 24, 36, 3), parameters=8_039, **FLOAT32_TABLE),
    Case(
        name='smaller_grey_image',
        kwargs={**SMALL, 'image_size': 24, 'patch_size': 6, 'channels': 1, 'depth': 1},
        inputs=image(2, 18, 24, 1),
        parameters=3_747,
        train=True,
        **FLOAT32_TABLE,
    ),
]

REFUSED = [
    Refused(
        says=r'image_size=\(24, 40\) is not divisible',
        kwargs={**SMALL, 'image_size': (24, 40)},
        inputs=image(2, 24, 36, 3),
    ),
    Refused(says=r'dim=22 must be a multiple of 4', kwargs={**SMALL, 'dim': 22}, inputs=image(2, 24, 36, 3)),
    Refused(
        says=r'expected 3 channels in the last axis, got shape \(2, 24, 36, 1\)',
        kwargs=SMALL,
        inputs=image(2, 24, 36, 1),
    ),
]

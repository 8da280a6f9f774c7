from parity_tests.case import Case, Refused, image
from parity_tests.upstream import tables_in_float64

SMALL = dict(image_size=(24, 36), patch_size=(4, 9), num_classes=7, dim=20, depth=2, heads=3, dim_head=6, mlp_dim=28)
# upstream takes the sines of its table in float32, which differ between builds of torch
FLOAT32_TABLE = dict(upstream_patch=tables_in_float64)

CASES = [
    Case(name='rectangular', kwargs=SMALL, inputs=image(2, 24, 36, 3), parameters=7_999, **FLOAT32_TABLE),
    Case(
        name='square',
        kwargs={**SMALL, 'image_size': 24, 'patch_size': 8},
        inputs=image(2, 24, 24, 3),
        parameters=9_847,
        **FLOAT32_TABLE,
    ),
    Case(
        name='one_head',
        kwargs={**SMALL, 'heads': 1, 'dim_head': 20, 'depth': 2},
        inputs=image(2, 24, 36, 3),
        parameters=8_319,
        **FLOAT32_TABLE,
    ),
    Case(name='grey', kwargs={**SMALL, 'channels': 1}, inputs=image(2, 24, 36, 1), parameters=6_415, **FLOAT32_TABLE),
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
    Refused(says=r'images=\(24, 30\) is not divisible by patch_size', kwargs=SMALL, inputs=image(2, 24, 30, 3)),
]

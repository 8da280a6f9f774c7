from parity_tests.case import Case, Input, Refused, image
from parity_tests.cases.simple_vit import FLOAT32_TABLE, SMALL

CASES = [
    Case(
        name='rectangular',
        kwargs={**SMALL, 'num_distance_basis': 5, 'max_dist': 9},
        inputs=image(2, 24, 36, 3),
        parameters=9_599,
        **FLOAT32_TABLE,
    ),
    Case(
        name='short_distances',
        kwargs={**SMALL, 'num_distance_basis': 3, 'max_dist': 4, 'depth': 1},
        inputs=image(2, 24, 36, 3),
        parameters=5_731,
        **FLOAT32_TABLE,
    ),
    Case(
        name='bias_of_a_sequence',
        model='RelativeProjPositionalBias',
        kwargs=dict(dim=6, heads=2, dim_pos=1, num_distance_basis=3, max_dist=4),
        inputs=(Input((2, 7, 6), 'b n d'),),
        feature_maps=False,
        parameters=63,
    ),
    Case(
        name='bias_of_a_volume',
        model='RelativeProjPositionalBias',
        kwargs=dict(dim=6, heads=2, dim_pos=3, num_distance_basis=5, max_dist=4),
        inputs=(Input((2, 4, 2, 3, 6), 'b t h w d'),),
        feature_maps=False,
        parameters=315,
    ),
]

REFUSED = [
    Refused(
        says=r'image_size=\(24, 40\) is not divisible',
        kwargs={**SMALL, 'image_size': (24, 40)},
        inputs=image(2, 24, 36, 3),
    ),
    Refused(
        says=r'expected tokens on a grid of dim_pos=2 axes, got shape \(2, 7, 6\)',
        model='RelativeProjPositionalBias',
        kwargs=dict(dim=6, heads=2),
        inputs=(Input((2, 7, 6), 'b n d'),),
    ),
]

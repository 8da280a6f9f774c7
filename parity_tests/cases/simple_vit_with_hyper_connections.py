from parity_tests.case import Case, Refused, image
from parity_tests.cases.simple_vit import FLOAT32_TABLE, SMALL

CASES = [
    Case(
        name='two_streams',
        kwargs={**SMALL, 'num_residual_streams': 2},
        inputs=image(2, 24, 36, 3),
        parameters=8_519,
        **FLOAT32_TABLE,
    ),
    Case(
        name='fewer_streams_than_blocks',
        kwargs={**SMALL, 'num_residual_streams': 4, 'depth': 5, 'num_register_tokens': 1, 'patch_size': (8, 9)},
        inputs=image(2, 24, 36, 3),
        parameters=20_119,
        **FLOAT32_TABLE,
    ),
]

REFUSED = [
    Refused(
        says=r'image_size=\(24, 40\) is not divisible',
        kwargs={**SMALL, 'image_size': (24, 40), 'num_residual_streams': 2},
        inputs=image(2, 24, 36, 3),
    ),
]

from parity_tests.case import Case, Refused, image
from parity_tests.cases.simple_vit import FLOAT32_TABLE, SMALL

CASES = [
    Case(
        name='three_blocks',
        kwargs={**SMALL, 'depth': 3},
        inputs=image(2, 24, 36, 3),
        parameters=10_813,
        **FLOAT32_TABLE,
    ),
    Case(name='one_block', kwargs={**SMALL, 'depth': 1}, inputs=image(2, 24, 36, 3), parameters=5_311, **FLOAT32_TABLE),
]

REFUSED = [
    Refused(
        says=r'image_size=\(24, 40\) is not divisible',
        kwargs={**SMALL, 'image_size': (24, 40)},
        inputs=image(2, 24, 36, 3),
    ),
]

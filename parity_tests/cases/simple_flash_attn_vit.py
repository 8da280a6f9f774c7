from parity_tests.case import Case, Refused, image
from parity_tests.cases.simple_vit import FLOAT32_TABLE, SMALL

CASES = [
    Case(name='flash', kwargs=SMALL, inputs=image(2, 24, 36, 3), parameters=7_999, **FLOAT32_TABLE),
    Case(
        name='no_flash',
        kwargs={**SMALL, 'use_flash': False},
        inputs=image(2, 24, 36, 3),
        parameters=7_999,
        upstream_fails=NameError,
    ),
]

REFUSED = [
    Refused(
        says=r'image_size=\(24, 40\) is not divisible',
        kwargs={**SMALL, 'image_size': (24, 40)},
        inputs=image(2, 24, 36, 3),
    ),
]

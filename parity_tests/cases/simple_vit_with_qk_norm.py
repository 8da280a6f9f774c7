from parity_tests.case import Case, Refused, image
from parity_tests.cases.simple_vit import FLOAT32_TABLE, SMALL

CASES = [
    Case(name='embedding', kwargs=SMALL, inputs=image(2, 24, 36, 3), parameters=7_964, **FLOAT32_TABLE),
    Case(
        name='classifier',
        kwargs={**SMALL, 'classifier': True},
        inputs=image(2, 24, 36, 3),
        parameters=8_071,
        upstream_fails=TypeError,
    ),
]

REFUSED = [
    Refused(
        says=r'image_size=\(24, 40\) is not divisible',
        kwargs={**SMALL, 'image_size': (24, 40)},
        inputs=image(2, 24, 36, 3),
    ),
]

from parity_tests.case import Case, Refused, image
from parity_tests.cases.simple_vit import FLOAT32_TABLE, SMALL

CASES = [
    Case(name='even', kwargs={**SMALL, 'depth': 4}, inputs=image(2, 24, 36, 3), parameters=15_095, **FLOAT32_TABLE),
    Case(
        name='odd',
        kwargs={**SMALL, 'depth': 3, 'num_register_tokens': 1, 'channels': 1},
        inputs=image(2, 24, 36, 1),
        parameters=9_943,
        **FLOAT32_TABLE,
    ),
]

REFUSED = [
    Refused(says=r'dim=22 must be a multiple of 4', kwargs={**SMALL, 'dim': 22}, inputs=image(2, 24, 36, 3)),
]

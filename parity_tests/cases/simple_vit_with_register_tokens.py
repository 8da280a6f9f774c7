from parity_tests.case import Case, Refused, image
from parity_tests.cases.simple_vit import FLOAT32_TABLE, SMALL

CASES = [
    Case(name='four', kwargs=SMALL, inputs=image(2, 24, 36, 3), parameters=8_079, **FLOAT32_TABLE),
    Case(
        name='one_grey',
        kwargs={**SMALL, 'num_register_tokens': 1, 'channels': 1},
        inputs=image(2, 24, 36, 1),
        parameters=6_435,
        **FLOAT32_TABLE,
    ),
]

REFUSED = [
    Refused(says=r'dim=22 must be a multiple of 4', kwargs={**SMALL, 'dim': 22}, inputs=image(2, 24, 36, 3)),
]

from parity_tests.case import Case, Refused, image
from parity_tests.cases.simple_vit import FLOAT32_TABLE, SMALL

CASES = [
    Case(name='fixed', kwargs=SMALL, inputs=image(2, 24, 36, 3), parameters=7_999, **FLOAT32_TABLE),
    Case(
        name='learned',
        kwargs={**SMALL, 'orthog_residual_update_kwargs': dict(learned=True, double_precision=False)},
        inputs=image(2, 24, 36, 3),
        parameters=8_167,
        **FLOAT32_TABLE,
    ),
]

REFUSED = [
    Refused(says=r'dim=22 must be a multiple of 4', kwargs={**SMALL, 'dim': 22}, inputs=image(2, 24, 36, 3)),
]

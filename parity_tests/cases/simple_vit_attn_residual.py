import numpy as np

from parity_tests.case import Case, Refused, image
from parity_tests.cases.simple_vit import FLOAT32_TABLE, SMALL

EARLIER = np.random.default_rng(0).normal(size=(3, 2, 24, 20))

CASES = [
    Case(name='learned_query', kwargs=SMALL, inputs=image(2, 24, 36, 3), parameters=14_159, **FLOAT32_TABLE),
    Case(
        name='history_out',
        kwargs={**SMALL, 'learned_query': False, 'depth': 1},
        inputs=image(2, 24, 36, 3),
        options=dict(return_history=True),
        parameters=8_351,
        **FLOAT32_TABLE,
    ),
    Case(
        name='history_in',
        kwargs={**SMALL, 'depth': 1},
        inputs=image(2, 24, 36, 3),
        call=dict(history=EARLIER),
        parameters=8_391,
        **FLOAT32_TABLE,
    ),
]

REFUSED = [
    Refused(
        says=r'image_size=\(24, 40\) is not divisible',
        kwargs={**SMALL, 'image_size': (24, 40)},
        inputs=image(2, 24, 36, 3),
    ),
]

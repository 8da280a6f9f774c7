from parity_tests.case import Case, Refused, image
from parity_tests.cases.simple_vit import FLOAT32_TABLE, SMALL

CASES = [
    Case(name='shared', kwargs=SMALL, inputs=image(2, 24, 36, 3), parameters=9_379, **FLOAT32_TABLE),
    Case(
        name='per_head',
        kwargs={**SMALL, 'per_head': True, 'ffn_heads': 4, 'temperature': 5000, 'depth': 1, 'eps': 1e-3},
        inputs=image(2, 24, 36, 3),
        parameters=6_751,
        **FLOAT32_TABLE,
    ),
    Case(
        name='no_gate',
        kwargs={**SMALL, 'gate': False, 'depth': 1, 'channels': 1},
        inputs=image(2, 24, 36, 1),
        parameters=4_959,
        **FLOAT32_TABLE,
    ),
]

REFUSED = [
    Refused(
        says=r'mlp_dim=28 is not divisible by ffn_heads=3',
        kwargs={**SMALL, 'ffn_heads': 3},
        inputs=image(2, 24, 36, 3),
    ),
    Refused(says=r'ffn_heads=0 must be at least 1', kwargs={**SMALL, 'ffn_heads': 0}, inputs=image(2, 24, 36, 3)),
]

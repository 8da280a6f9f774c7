from parity_tests.case import Case, Refused, image
from parity_tests.cases.simple_vit import FLOAT32_TABLE, SMALL

JUMBO = {**SMALL, 'dim': 12, 'mlp_dim': 1.5, 'jumbo_cls_k': 2, 'jumbo_ff_mult': 0.5}
LAST = 'transformer/block_{}_feedforward/.*'

CASES = [
    Case(
        name='one_token',
        kwargs=JUMBO,
        inputs=image(2, 24, 36, 3),
        parameters=18_619,
        unused=(LAST.format(1),),
        **FLOAT32_TABLE,
    ),
    Case(
        name='three_tokens',
        kwargs={**JUMBO, 'num_jumbo_cls': 3, 'jumbo_cls_k': 4, 'dim': 8, 'mlp_dim': 3, 'depth': 1},
        inputs=image(2, 24, 36, 3),
        parameters=35_679,
        unused=(LAST.format(0),),
        **FLOAT32_TABLE,
    ),
]

REFUSED = [
    Refused(says=r'dim=14 must be a multiple of 4', kwargs={**JUMBO, 'dim': 14}, inputs=image(2, 24, 36, 3)),
]

from parity_tests.case import Case, Refused, image
from parity_tests.cases.simple_vit import FLOAT32_TABLE, SMALL

CASES = [
    Case(name='logits', kwargs=SMALL, inputs=image(2, 24, 36, 3), parameters=9_039, **FLOAT32_TABLE),
    Case(
        name='thresholded_loss',
        kwargs={**SMALL, 'sparsity_threshold': 0.48, 'dim_mask': 5, 'num_register_tokens': 1},
        inputs=image(2, 24, 36, 3),
        parameters=9_219,
        options=dict(return_loss=True),
        **FLOAT32_TABLE,
    ),
    Case(
        name='loss',
        kwargs={**SMALL, 'sparsity_loss_type': 'l1', 'depth': 1},
        inputs=image(2, 24, 36, 3),
        parameters=5_871,
        options=dict(return_loss=True),
        **FLOAT32_TABLE,
    ),
]

REFUSED = [
    Refused(
        says=r"sparsity_loss_type='l2' is unknown: use one of 'l1', 'thresholded_l1'",
        kwargs={**SMALL, 'sparsity_loss_type': 'l2'},
        inputs=image(2, 24, 36, 3),
    ),
]

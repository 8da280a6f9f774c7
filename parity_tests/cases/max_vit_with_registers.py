from parity_tests.case import Case, Refused, image
from parity_tests.cases.max_vit import SMALL as WITHOUT

SMALL = {**WITHOUT, 'num_register_tokens': 3}
CASES = [
    Case(name='eval', kwargs=SMALL, inputs=image(2, 8, 16, 3), parameters=2_765),
    Case(
        name='train',
        kwargs={**SMALL, 'depth': (2,), 'num_register_tokens': 1},
        inputs=image(2, 16, 24, 3),
        parameters=4_945,
        train=True,
    ),
    Case(
        name='grey_two_stages',
        kwargs={**SMALL, 'depth': (1, 1), 'dim_conv_stem': None, 'window_size': 3, 'channels': 1},
        inputs=image(2, 24, 48, 1),
        parameters=11_099,
    ),
]

REFUSED = [
    Refused(
        says=r'num_register_tokens=0 must be at least 1: without registers it is max_vit',
        kwargs={**SMALL, 'num_register_tokens': 0},
        inputs=image(2, 8, 16, 3),
    ),
    Refused(
        says=r'window_size=\(2, 2\) does not divide the feature map of 3 x 4',
        kwargs=SMALL,
        inputs=image(2, 12, 16, 3),
    ),
    Refused(
        says=r'expected 3 channels in the last axis, got shape \(2, 8, 16, 1\)',
        kwargs=SMALL,
        inputs=image(2, 8, 16, 1),
    ),
]

from parity_tests.case import Case, Refused, image
from parity_tests.cases.simple_vit import FLOAT32_TABLE, SMALL

CASES = [
    Case(
        name='rectangular',
        kwargs={**SMALL, 'freq_patch_size': (8, 4)},
        inputs=image(2, 24, 36, 3),
        parameters=12_283,
        **FLOAT32_TABLE,
    ),
    Case(
        name='grey',
        kwargs={**SMALL, 'freq_patch_size': 6, 'channels': 1, 'depth': 1},
        inputs=image(2, 24, 36, 1),
        parameters=5_371,
        **FLOAT32_TABLE,
    ),
]

REFUSED = [
    Refused(
        says=r'image_size=\(24, 36\) is not divisible by freq_patch_size=\(5, 5\)',
        kwargs={**SMALL, 'freq_patch_size': 5},
        inputs=image(2, 24, 36, 3),
    ),
]

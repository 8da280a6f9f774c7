from parity_tests.case import Case, Refused, video
from parity_tests.cases.simple_vit import FLOAT32_TABLE
from parity_tests.cases.vit_3d import SMALL

CASES = [
    Case(name='flash', kwargs=SMALL, inputs=video(2, 6, 12, 20, 3), parameters=7_863, **FLOAT32_TABLE),
    Case(
        name='no_flash',
        kwargs={**SMALL, 'use_flash_attn': False, 'depth': 1},
        inputs=video(2, 6, 12, 20, 3),
        parameters=4_909,
        upstream_fails=NameError,
    ),
]

REFUSED = [
    Refused(
        says=r'image_size=\(12, 21\) is not divisible by image_patch_size=\(3, 4\)',
        kwargs={**SMALL, 'image_size': (12, 21)},
        inputs=video(2, 6, 12, 20, 3),
    ),
]

from parity_tests.case import Case, Refused, image
from parity_tests.cases.simple_vit import FLOAT32_TABLE, SMALL

# Only the class token is classified: what the last block does to the patches reaches nothing.
LAST = 'transformer/{}/feedforward/norm/patches/.*'

CASES = [
    Case(
        name='third',
        kwargs={**SMALL, 'depth': 3},
        inputs=image(2, 24, 36, 3),
        parameters=12_067,
        unused=(LAST.format('shared/block_1'), 'transformer/norm/patches/.*'),
        **FLOAT32_TABLE,
    ),
    Case(
        name='all_specialized',
        kwargs={**SMALL, 'specialize_qkv_depth': 2},
        inputs=image(2, 24, 36, 3),
        parameters=10_379,
        unused=(LAST.format('specialized/block_1'), 'transformer/norm/patches/.*'),
        **FLOAT32_TABLE,
    ),
    Case(
        name='none_specialized',
        kwargs={**SMALL, 'specialize_qkv_depth': 0, 'depth': 1},
        inputs=image(2, 24, 36, 3),
        parameters=5_451,
        unused=(LAST.format('shared/block_0'), 'transformer/norm/patches/.*'),
        **FLOAT32_TABLE,
    ),
]

REFUSED = [
    Refused(says=r'dim=22 must be a multiple of 4', kwargs={**SMALL, 'dim': 22}, inputs=image(2, 24, 36, 3)),
]

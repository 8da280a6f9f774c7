from parity_tests.case import Case, Refused, series
from parity_tests.cases.simple_vit import FLOAT32_TABLE
from parity_tests.cases.vit_1d import SMALL

CASES = [
    Case(name='series', kwargs=SMALL, inputs=series(2, 45, 3), parameters=5_953, **FLOAT32_TABLE),
    Case(
        name='longer_one_channel',
        kwargs={**SMALL, 'channels': 1, 'depth': 1, 'dim': 22},
        inputs=series(2, 60, 1),
        parameters=3_345,
        **FLOAT32_TABLE,
    ),
]

REFUSED = [
    Refused(
        says='seq_len=46 is not divisible by patch_size=5', kwargs={**SMALL, 'seq_len': 46}, inputs=series(2, 45, 3)
    ),
    Refused(says='dim=21 is not divisible by', kwargs={**SMALL, 'dim': 21}, inputs=series(2, 45, 3)),
    Refused(says='dim=2 must be at least 4', kwargs={**SMALL, 'dim': 2}, inputs=series(2, 45, 3)),
    Refused(
        says=r'expected 3 channels in the last axis, got shape \(2, 45, 1\)', kwargs=SMALL, inputs=series(2, 45, 1)
    ),
]

from parity_tests.case import Case, Refused, video
from parity_tests.cases.simple_vit import FLOAT32_TABLE
from parity_tests.cases.vit_3d import SMALL

CASES = [
    Case(name='channels_left_over', kwargs=SMALL, inputs=video(2, 6, 12, 20, 3), parameters=7_907, **FLOAT32_TABLE),
    Case(
        name='more_frames_grey',
        kwargs={**SMALL, 'dim': 24, 'channels': 1, 'depth': 1},
        inputs=video(2, 8, 12, 20, 1),
        parameters=4_139,
        **FLOAT32_TABLE,
    ),
]

REFUSED = [
    Refused(
        says='frames=7 is not divisible by frame_patch_size=2',
        kwargs={**SMALL, 'frames': 7},
        inputs=video(2, 6, 12, 20, 3),
    ),
    Refused(
        says=r'dim=11 must be at least 12 for sine-cosine positions along 3 axes',
        kwargs={**SMALL, 'dim': 11},
        inputs=video(2, 6, 12, 20, 3),
    ),
    Refused(
        says=r'expected 3 channels in the last axis, got shape \(2, 6, 12, 20, 1\)',
        kwargs=SMALL,
        inputs=video(2, 6, 12, 20, 1),
    ),
]

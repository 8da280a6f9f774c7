from parity_tests.case import Case, Input, Refused, video
from parity_tests.cases.na_vit import keep_these, kept
from parity_tests.cases.na_vit_nested_tensor import FROZEN, NO_DROPPING

SMALL = dict(
    image_size=(12, 20),
    max_frames=6,
    patch_size=4,
    frame_patch_size=2,
    num_classes=7,
    dim=20,
    depth=2,
    heads=3,
    dim_head=6,
    mlp_dim=28,
)
SHALLOW = {**SMALL, 'depth': 1}
CUT = (*FROZEN, 'register_tokens')
MIXED = tuple(Input(shape, 't h w c') for shape in ((6, 12, 8, 3), (2, 8, 20, 3), (4, 4, 4, 3)))

CASES = [
    Case(name='one_size', kwargs=SMALL, inputs=video(2, 4, 12, 20, 3), parameters=9_464, unused=CUT),
    Case(
        name='list',
        kwargs={**SHALLOW, 'num_registers': 3, 'channels': 1},
        inputs=tuple(Input((*one.shape[:3], 1), one.layout) for one in MIXED),
        listed=[0, 1, 2],
        parameters=5_376,
        unused=CUT,
    ),
    Case(
        name='no_query_key_norm',
        kwargs={**SHALLOW, **NO_DROPPING, 'qk_rmsnorm': False},
        inputs=MIXED,
        listed=[0, 1, 2],
        parameters=6_792,
        unused=CUT,
        train=True,
    ),
    Case(
        name='dropped',
        kwargs={**SHALLOW, 'token_dropout_prob': 0.4},
        inputs=MIXED,
        listed=[0, 1, 2],
        parameters=6_804,
        unused=CUT,
        train=True,
        call=kept((18, 10), (10, 6), (2, 1)),
        upstream_patch=keep_these,
    ),
    Case(
        name='train_embedding_rows_rectangular',
        kwargs={**SMALL, 'train_embedding': True, 'patch_size': (4, 2)},
        inputs=MIXED,
        listed=[[0, 1], [2]],
        parameters=8_508,
        upstream_fails=TypeError,
    ),
]

REFUSED = [
    Refused(
        says='max_frames=7 is not divisible by frame_patch_size=2',
        kwargs={**SMALL, 'max_frames': 7},
        inputs=video(2, 6, 12, 20, 3),
    ),
    Refused(
        says=r'image_size=\(12, 21\) is not divisible by patch_size=\(4, 4\)',
        kwargs={**SMALL, 'image_size': (12, 21)},
        inputs=video(2, 6, 12, 20, 3),
    ),
    Refused(
        says=r'have 4 patches along their frame, max_frames=6 with image_size=\(12, 20\) has positions for 3',
        kwargs=SMALL,
        inputs=video(2, 8, 12, 20, 3),
    ),
    Refused(says=r'layout \[b t h w c\], got shape \(6, 12, 20, 3\)', kwargs=SMALL, inputs=video(6, 12, 20, 3)),
]

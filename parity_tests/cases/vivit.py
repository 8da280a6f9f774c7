import numpy as np

from parity_tests.case import Case, Refused, video

SMALL = dict(
    image_size=(12, 20),
    image_patch_size=(3, 4),
    frames=6,
    frame_patch_size=2,
    num_classes=7,
    dim=22,
    spatial_depth=2,
    temporal_depth=1,
    heads=3,
    dim_head=6,
    mlp_dim=28,
)
INPUT = video(2, 6, 12, 20, 3)
SHALLOW = {**SMALL, 'spatial_depth': 1}
BOTH = {**SHALLOW, 'variant': 'factorized_self_attention'}
# the second video has three frames and then padding; a step of two frames is seen if both are
MASK = np.array([[True] * 6, [True] * 3 + [False] * 3])

CASES = [
    Case(name='factorized_encoder', kwargs=SMALL, inputs=INPUT, parameters=12_335),
    Case(name='frame_mask', kwargs=SHALLOW, inputs=INPUT, parameters=9_359, call={'mask': MASK}),
    Case(
        name='mean_plain_attention',
        kwargs={**SHALLOW, 'pool': 'mean', 'use_flash_attn': False},
        inputs=INPUT,
        parameters=9_315,
        call={'mask': MASK},
        train=True,
    ),
    Case(
        name='self_attention',
        kwargs={**BOTH, 'spatial_depth': 2, 'temporal_depth': 2},
        inputs=INPUT,
        parameters=12_593,
    ),
    Case(
        name='self_attention_mean_frame_mask',
        kwargs={**BOTH, 'pool': 'mean', 'use_flash_attn': False},
        inputs=INPUT,
        parameters=7_945,
        call={'mask': MASK},
    ),
    Case(
        name='fewer_frames_one_channel',
        kwargs={**SHALLOW, 'channels': 1},
        inputs=video(2, 4, 12, 20, 1),
        parameters=8_207,
        call={'mask': MASK[:, :4]},
    ),
]

REFUSED_BY_ALL = [
    Refused(says='frames=7 is not divisible by frame_patch_size=2', kwargs={**SMALL, 'frames': 7}, inputs=INPUT),
    Refused(
        says=r'image_size=\(12, 21\) is not divisible by image_patch_size=\(3, 4\)',
        kwargs={**SMALL, 'image_size': (12, 21)},
        inputs=INPUT,
    ),
    Refused(says=r"pool='max' is unknown: use one of 'cls', 'mean'", kwargs={**SMALL, 'pool': 'max'}, inputs=INPUT),
    Refused(says=r'layout \[b t h w c\], got shape \(6, 12, 20, 3\)', kwargs=SMALL, inputs=video(6, 12, 20, 3)),
    Refused(
        says=r'have 4 patches, frames=6 with image_size=\(12, 20\) has positions for 3',
        kwargs=SMALL,
        inputs=video(2, 8, 12, 20, 3),
    ),
]

REFUSED = [
    *REFUSED_BY_ALL,
    Refused(
        says="variant='joint' is unknown: use one of 'factorized_encoder'",
        kwargs={**SMALL, 'variant': 'joint'},
        inputs=INPUT,
    ),
    Refused(
        says='spatial_depth=2 and temporal_depth=1 must be the same',
        kwargs={**BOTH, 'spatial_depth': 2},
        inputs=INPUT,
    ),
    Refused(
        says=r'mask of shape \(2, 3\) must be \[b t\], here \(2, 6\)',
        kwargs=SMALL,
        inputs=INPUT,
        call={'mask': MASK[:, ::2]},
    ),
]

import numpy as np

from parity_tests.case import Case, Refused, image

SMALL = dict(
    num_classes=7,
    dim=8,
    depth=(1,),
    dim_head=4,
    dim_conv_stem=6,
    window_size=2,
    mbconv_expansion_rate=1.5,
    mbconv_shrinkage_rate=0.3,
    dropout=0.0,
)

CASES = [
    Case(name='eval', kwargs=SMALL, inputs=image(2, 8, 16, 3), parameters=2_737),
    Case(
        name='train',
        kwargs={**SMALL, 'depth': (2,)},
        inputs=image(2, 16, 24, 3),
        parameters=4_921,
        train=True,
    ),
    Case(
        name='dropped_convolutions',
        kwargs={**SMALL, 'depth': (2,), 'mbconv_dropout': 0.25},
        inputs=image(2, 16, 24, 3),
        parameters=4_921,
        train=True,
        call={'keep_convs': np.array([[True, True], [False, True]])},
        upstream_fails=TypeError,
    ),
    Case(
        name='grey_two_stages',
        kwargs={**SMALL, 'depth': (1, 1), 'dim_conv_stem': None, 'window_size': 3, 'channels': 1},
        inputs=image(2, 24, 48, 1),
        parameters=11_015,
    ),
]

REFUSED = [
    Refused(
        says=r'window_size=\(2, 2\) does not divide the feature map of 3 x 4',
        kwargs=SMALL,
        inputs=image(2, 12, 16, 3),
    ),
    Refused(says=r'dim=8 is not divisible by dim_head=3', kwargs={**SMALL, 'dim_head': 3}, inputs=image(2, 16, 32, 3)),
    Refused(says=r'depth=2 must be a sequence', kwargs={**SMALL, 'depth': 2}, inputs=image(2, 16, 32, 3)),
    Refused(
        says=r'mbconv_dropout=1.0 must be at least 0 and below 1',
        kwargs={**SMALL, 'mbconv_dropout': 1.0},
        inputs=image(2, 16, 32, 3),
    ),
    Refused(
        says=r'expected 3 channels in the last axis, got shape \(2, 16, 32, 1\)',
        kwargs=SMALL,
        inputs=image(2, 16, 32, 1),
    ),
]

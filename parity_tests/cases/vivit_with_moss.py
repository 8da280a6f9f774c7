import numpy as np

from parity_tests.case import Case, Input, Refused
from parity_tests.cases import vivit
from parity_tests.cases.vivit import INPUT, MASK

SMALL = dict(**vivit.SMALL, moss_hidden_dim=10, moss_causal=False)
SHALLOW = {**SMALL, 'spatial_depth': 1, 'moss_orders': 1}
CAUSAL = {**SHALLOW, 'moss_causal': True}
NEIGHBOURS = dict(dim=13, local_time=5, local_height=3, local_width=1, hidden_dim=10, orders=2)
TOKENS = (Input((2, 6, 4, 5, 13), 'b t h w d'),)

CASES = [
    Case(name='causal_mean', kwargs={**CAUSAL, 'pool': 'mean', 'temporal_depth': 2}, inputs=INPUT, parameters=15_969),
    Case(name='not_causal', kwargs=SMALL, inputs=INPUT, parameters=19_141),
    Case(
        name='frame_mask',
        kwargs={**SHALLOW, 'moss_local_time': 1, 'moss_local_height': 5},
        inputs=INPUT,
        parameters=12_657,
        call={'mask': MASK},
    ),
    Case(
        name='frame_mask_mean',
        kwargs={**SHALLOW, 'pool': 'mean', 'use_flash_attn': False},
        inputs=INPUT,
        parameters=12_993,
        call={'mask': np.roll(MASK, 2, axis=1)},
        train=True,
    ),
    Case(
        name='causal_sees_nothing',
        kwargs={**CAUSAL, 'use_flash_attn': False},
        inputs=INPUT,
        parameters=13_037,
        unused=('to_patch_embedding/.*', 'pos_embedding', 'spatial_.*', 'moss/.*'),
    ),
    Case(
        name='causal_class_token_last',
        kwargs={**CAUSAL, 'temporal_cls_last': True},
        inputs=INPUT,
        parameters=13_037,
        upstream_fails=TypeError,
    ),
    Case(
        name='masked_class_token_last',
        kwargs={**SHALLOW, 'temporal_cls_last': True},
        inputs=INPUT,
        parameters=13_037,
        call={'mask': MASK},
        upstream_fails=TypeError,
    ),
    Case(name='moss', model='MOSS', kwargs=NEIGHBOURS, inputs=TOKENS, parameters=5_632, feature_maps=False),
    Case(
        name='moss_causal',
        model='MOSS',
        kwargs={**NEIGHBOURS, 'causal': True},
        inputs=TOKENS,
        parameters=5_632,
        feature_maps=False,
    ),
]

REFUSED = [
    *vivit.REFUSED_BY_ALL,
    Refused(says='mask does not go with moss_causal=True', kwargs=CAUSAL, inputs=INPUT, call={'mask': MASK}),
    Refused(says='local_time=2 must be odd', kwargs={**SMALL, 'moss_local_time': 2}, inputs=INPUT),
    Refused(
        says='causal=False does not go with a cache',
        model='MOSS',
        kwargs=NEIGHBOURS,
        inputs=TOKENS,
        call={'cache': [np.zeros((2, 4, 4, 5, 13))] * 2},
    ),
    Refused(
        says=r'mask of shape \(2, 3\) must be \[b t\], here \(2, 6\)',
        kwargs=SMALL,
        inputs=INPUT,
        call={'mask': MASK[:, ::2]},
    ),
]

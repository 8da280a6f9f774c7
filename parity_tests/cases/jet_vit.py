from types import SimpleNamespace

import numpy as np

from parity_tests.case import Case, Refused, image

SMALL = dict(
    image_size=(16, 36),
    patch_size=(4, 6),
    num_classes=7,
    dim=20,
    depth=3,
    heads=3,
    dim_head=5,
    mlp_dim=28,
    window_size=2,
    attn_layers=('LA', 'WA', 'FA'),
)
OTHERS = {'WA': '(linear|full)', 'LA': '(window|full)', 'FA': '(window|linear)'}


def unused(*kinds: str) -> tuple[str, ...]:
    return tuple(f'transformer/block_{i}/attention/{OTHERS[kind]}/.*' for i, kind in enumerate(kinds))


def choose(module, call):
    """Upstream chooses with Python's `random`, block by block."""
    choices = iter(call.get('attention_choices', [0] * 9))
    return {'random': SimpleNamespace(choice=lambda options: options[int(next(choices))])}


CASES = [
    Case(
        name='one_of_each',
        kwargs=SMALL,
        inputs=image(2, 16, 36, 3),
        parameters=20_287,
        unused=unused('LA', 'WA', 'FA'),
    ),
    Case(
        name='chosen',
        kwargs={**SMALL, 'attn_layers': [('WA', 'LA'), ('LA', 'FA'), 'WA']},
        inputs=image(2, 16, 36, 3),
        parameters=20_287,
        unused=unused('LA', 'LA', 'WA'),
        call=dict(attention_choices=np.array([1, 0, 0])),
        train=True,
        upstream_patch=choose,
    ),
    Case(
        name='first_of_each_tokens',
        kwargs={**SMALL, 'attn_layers': [('WA', 'LA'), ('FA', 'WA', 'LA')], 'depth': 2, 'num_classes': 0},
        inputs=image(2, 16, 36, 3),
        parameters=14_148,
        unused=unused('WA', 'FA'),
        upstream_patch=choose,
    ),
    Case(
        name='full_windows_do_not_fit',
        kwargs={**SMALL, 'attn_layers': None, 'window_size': 7, 'channels': 1, 'depth': 1},
        inputs=image(2, 16, 36, 1),
        parameters=7_887,
        unused=unused('FA'),
    ),
    Case(
        name='one_head',
        kwargs={**SMALL, 'heads': 1, 'dim_head': 20, 'attn_layers': ('LA',), 'depth': 1},
        inputs=image(2, 16, 36, 3),
        parameters=8_833,
        unused=unused('LA'),
    ),
]

REFUSED = [
    Refused(
        says=r"an entry of attn_layers='XA' is unknown: use one of 'WA', 'LA', 'FA'",
        kwargs={**SMALL, 'attn_layers': ('LA', ('WA', 'XA'), 'FA')},
        inputs=image(2, 16, 36, 3),
    ),
    Refused(
        says=r"attn_layers=\('LA',\) must hold one entry for each of depth=3 blocks",
        kwargs={**SMALL, 'attn_layers': ('LA',)},
        inputs=image(2, 16, 36, 3),
    ),
    Refused(says=r'dim=20 is not divisible by dim_head=6', kwargs={**SMALL, 'dim_head': 6}, inputs=image(2, 16, 36, 3)),
    Refused(
        says=r'window_size=\(3, 3\) does not divide the feature map of 4 x 6',
        kwargs={**SMALL, 'window_size': 3},
        inputs=image(2, 16, 36, 3),
    ),
    Refused(
        says=r'images of shape \(2, 8, 36, 3\) must be of image_size=\(16, 36\)',
        kwargs=SMALL,
        inputs=image(2, 8, 36, 3),
    ),
    Refused(
        says=r'attention_choices of length 2 must hold one for each of depth=3',
        kwargs=SMALL,
        inputs=image(2, 16, 36, 3),
        call=dict(attention_choices=np.array([0, 0])),
    ),
]

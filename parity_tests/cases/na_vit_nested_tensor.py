from parity_tests.case import Case, Refused, image
from parity_tests.cases.na_vit import MIXED, SMALL, images, keep_these, kept, more_dropped_of_large_ones

SHALLOW = {**SMALL, 'depth': 1}
# upstream's nested tensors have no history
NO_DROPPING = {'token_dropout_prob': 0.0}
FROZEN = ('to_patch_embedding/.*', 'pos_embed_.*', 'attn_pool_queries')

CASES = [
    Case(name='one_size', kwargs=SMALL, inputs=image(2, 16, 36, 3), parameters=8_408, unused=FROZEN),
    Case(name='list', kwargs=SMALL, inputs=MIXED, listed=[0, 1, 2, 3], parameters=8_408, unused=FROZEN),
    Case(
        name='no_query_key_norm',
        kwargs={**SHALLOW, **NO_DROPPING, 'qk_rmsnorm': False},
        inputs=MIXED,
        listed=[0, 1, 2, 3],
        parameters=5_736,
        unused=FROZEN,
        train=True,
    ),
    Case(
        name='dropped',
        kwargs={**SHALLOW, 'token_dropout_prob': 0.4},
        inputs=MIXED,
        listed=[0, 1, 2, 3],
        parameters=5_748,
        unused=FROZEN,
        train=True,
        call=kept((18, 10), (18, 10), (2, 1), (20, 12)),
        upstream_patch=keep_these,
    ),
    Case(
        name='train_embedding_dropped_by_size',
        kwargs={**SHALLOW, 'token_dropout_prob': more_dropped_of_large_ones, 'train_embedding': True},
        inputs=MIXED,
        listed=[[0, 1], [2], [3]],
        parameters=5_748,
        train=True,
        call=kept((18, 12), (18, 12), (2, 1), (20, 5)),
        upstream_fails=TypeError,
    ),
    Case(
        name='rectangular_grey',
        kwargs={**SHALLOW, 'patch_size': (4, 9), 'channels': 1, 'train_embedding': True},
        inputs=images((24, 9, 1), (8, 36, 1)),
        listed=[0, 1],
        parameters=5_384,
        upstream_fails=TypeError,
    ),
]

REFUSED = [
    Refused(
        says=r'image_size=\(24, 38\) is not divisible by patch_size=\(4, 4\)',
        kwargs={**SMALL, 'image_size': (24, 38)},
        inputs=image(2, 24, 36, 3),
    ),
    Refused(
        says=r'have 10 patches along their width, image_size=\(24, 36\) has positions for 9',
        kwargs=SMALL,
        inputs=image(2, 24, 40, 3),
    ),
]

import numpy as np

from parity_tests.case import Case, Input, Refused, Submodule, image

EYE = dict(image_size=(12, 20), patch_size=(6, 4), num_classes=7, dim=22, depth=2, heads=3, dim_head=6, mlp_dim=28)
SMALL = dict(
    vit=Submodule('models.vat', 'ViT', EYE),
    dim=18,
    depth=2,
    heads=2,
    dim_head=5,
    dim_action=4,
    mlp_dim=26,
    self_attn_heads=3,
    self_attn_dim_head=7,
    action_chunk_len=5,
    num_advantage_bins=3,
)
ROBOT = {**SMALL, 'num_tasks': 6, 'dim_extra_token': 9, 'num_views': 2, 'time_seq_len': 3}
ONE_VIEW = (Input((2, 1, 12, 20, 3), 'b v h w c'),)
VIDEO = (Input((2, 2, 3, 12, 20, 3), 'b v t h w c'),)
rng = np.random.default_rng(0)
STATE = dict(tasks=np.array([4, 1]), extra=rng.normal(size=(2, 9)), advantages=np.array([-1, 2]))
ACTIONS = rng.normal(size=(2, 5, 4))
HEAD = ('vit/mlp_head/.*',)
# of a ViT as deep as the model the last block is not read
LAST_LAYER = (*HEAD, 'vit/transformer/block_1/.*', 'vit/transformer/norm/.*')
NOT_GIVEN = ('.*/film/.*', 'task_emb', 'to_extra_token/.*', 'advantage_emb')

CASES = [
    Case(
        name='images',
        kwargs=SMALL,
        inputs=ONE_VIEW,
        parameters=15_823,
        options={'advantages': 1},
        feature_maps=False,
        unused=LAST_LAYER,
    ),
    Case(
        name='everything',
        kwargs={**ROBOT, 'vit_layer_indices': (2, 0)},
        inputs=VIDEO,
        parameters=17_589,
        call=STATE,
        options={'return_hiddens': True},
        feature_maps=False,
        unused=HEAD,
    ),
    Case(
        name='loss_frozen_vit',
        kwargs={**ROBOT, 'depth': 1, 'vit_layer_indices': (-1,)},
        inputs=VIDEO,
        parameters=13_330,
        call={**STATE, 'actions': ACTIONS},
        options={'freeze_vit': True},
        feature_maps=False,
        train=True,
        unused=('vit/.*',),
    ),
    Case(
        name='nothing_further_given',
        kwargs={**ROBOT, 'depth': 1, 'vit_layer_indices': (1,), 'num_register_tokens': 0, 'add_self_attn': False},
        inputs=VIDEO,
        parameters=11_635,
        feature_maps=False,
        unused=(*LAST_LAYER, *NOT_GIVEN),
    ),
    Case(
        name='settings_of_the_vit',
        kwargs={
            **SMALL,
            'vit': {**EYE, 'depth': 1, 'num_register_tokens': 3, 'channels': 1, 'pool': 'mean'},
            'vit_layer_indices': (1, 1),
            'num_advantage_bins': 0,
            'dim_extra_token': 9,
            'num_tasks': 6,
            'heads': 1,
            'dim_head': 18,
        },
        inputs=(Input((2, 3, 6, 16, 1), 'b v h w c'),),
        parameters=13_834,
        call={'extra': rng.normal(size=(2, 3, 9)), 'tasks': np.array([5, -1]), 'advantages': np.array([0, 1])},
        feature_maps=False,
        unused=HEAD,
    ),
    Case(
        name='film_around_one',
        kwargs={**SMALL, 'num_tasks': 6, 'film_around_one': True, 'depth': 1, 'vit_layer_indices': (0,)},
        inputs=ONE_VIEW,
        parameters=13_040,
        call={'tasks': np.array([3, 2])},
        feature_maps=False,
        unused=(*HEAD, 'vit/transformer/.*', 'advantage_emb'),
        upstream_fails=TypeError,
    ),
    Case(
        name='images_without_views',
        kwargs={**SMALL, 'depth': 1, 'vit_layer_indices': (2,)},
        inputs=image(2, 12, 20, 3),
        parameters=12_248,
        feature_maps=False,
        unused=(*HEAD, 'advantage_emb'),
        upstream_fails=ValueError,
    ),
    Case(name='vit_class_token', kwargs=EYE, inputs=image(2, 12, 20, 3), parameters=8_331, model='ViT'),
    Case(
        name='vit_mean_registers',
        kwargs={**EYE, 'pool': 'mean', 'num_register_tokens': 3, 'heads': 1, 'dim_head': 22},
        inputs=image(2, 6, 16, 3),
        parameters=7_997,
        model='ViT',
    ),
    Case(
        name='vit_hiddens',
        kwargs={**EYE, 'num_register_tokens': 3},
        inputs=image(2, 12, 20, 3),
        parameters=8_397,
        model='ViT',
        options={'return_hiddens': True},
        feature_maps=False,
        unused=('mlp_head/.*',),
    ),
]

REFUSED = [
    Refused(
        says=r'depth=3 is not the depth of vit, 2: say with vit_layer_indices',
        kwargs={**SMALL, 'depth': 3},
        inputs=ONE_VIEW,
    ),
    Refused(
        says=r'vit_layer_indices=\(0, 3\) must be depth=2 numbers from 0 to 2',
        kwargs={**SMALL, 'vit_layer_indices': (0, 3)},
        inputs=ONE_VIEW,
    ),
    Refused(
        says=r'vit_layer_indices=\(0, 1, 2\) must be depth=2 numbers',
        kwargs={**SMALL, 'vit_layer_indices': (0, 1, 2)},
        inputs=ONE_VIEW,
    ),
    Refused(says=r'layout \[b v t h w c\], got shape \(2, 1, 12, 20, 3\)', kwargs=ROBOT, inputs=ONE_VIEW),
    Refused(
        says=r'layout \[b h w c\] or \[b v h w c\], got shape \(12, 20, 3\)', kwargs=SMALL, inputs=image(12, 20, 3)
    ),
    Refused(
        says=r'videos of 2 frames: time_seq_len=3 must be as many',
        kwargs=ROBOT,
        inputs=(Input((2, 2, 2, 12, 20, 3), 'b v t h w c'),),
    ),
    Refused(
        says=r'images of 1 views: they must be 2',
        kwargs=ROBOT,
        inputs=(Input((2, 1, 3, 12, 20, 3), 'b v t h w c'),),
    ),
    Refused(
        says=r'tasks are given: num_tasks=None must be their number',
        kwargs=SMALL,
        inputs=ONE_VIEW,
        call={'tasks': np.array([0, 1])},
    ),
    Refused(
        says=r'extra of shape \(2, 9\) must have dim_extra_token=None channels',
        kwargs=SMALL,
        inputs=ONE_VIEW,
        call={'extra': np.zeros((2, 9))},
    ),
    Refused(
        says=r'actions of shape \(2, 4, 4\) must be \[b k d\], here \(2, 5, 4\)',
        kwargs=SMALL,
        inputs=ONE_VIEW,
        call={'actions': ACTIONS[:, 1:]},
    ),
    Refused(
        says=r'expected 3 channels in the last axis, got shape \(2, 12, 20, 1\)',
        kwargs=SMALL,
        inputs=image(2, 12, 20, 1),
    ),
    Refused(
        says=r'have 28 patches, image_size=\(12, 20\) has positions for 10',
        kwargs=SMALL,
        inputs=image(2, 24, 28, 3),
    ),
]

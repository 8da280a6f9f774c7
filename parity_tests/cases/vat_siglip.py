import numpy as np

from parity_tests.case import Case, Input, Refused, image

EYE = dict(image_size=12, patch_size=6, dim=22, depth=2, heads=3, mlp_dim=28)
SMALL = dict(
    **{f'siglip_{name}': value for name, value in EYE.items()},
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
ONE_VIEW = (Input((2, 1, 12, 12, 3), 'b v h w c'),)
VIDEO = (Input((2, 2, 3, 12, 12, 3), 'b v t h w c'),)
rng = np.random.default_rng(0)
STATE = dict(tasks=np.array([4, 1]), extra=rng.normal(size=(2, 9)), advantages=np.array([-1, 2]))
ACTIONS = rng.normal(size=(2, 5, 4))
# of a ViT as deep as the model the last block is not read
LAST_LAYER = ('vit/transformer/(block_1|norm)/.*',)

CASES = [
    Case(
        name='images',
        kwargs=SMALL,
        inputs=ONE_VIEW,
        parameters=16_700,
        options={'advantages': 1},
        feature_maps=False,
        unused=LAST_LAYER,
    ),
    Case(
        name='everything',
        kwargs={**ROBOT, 'vit_layer_indices': (2, 0)},
        inputs=VIDEO,
        parameters=18_466,
        call=STATE,
        options={'return_hiddens': True},
        feature_maps=False,
    ),
    Case(
        name='loss_frozen_vit',
        kwargs={**ROBOT, 'depth': 1, 'siglip_norm_eps': 1e-3},
        inputs=VIDEO,
        parameters=14_171,
        call={**STATE, 'actions': ACTIONS},
        options={'freeze_vit': True},
        feature_maps=False,
        train=True,
        unused=('vit/.*',),
    ),
    Case(
        name='one_view_for_two',
        kwargs={**ROBOT, 'depth': 1, 'vit_layer_indices': (1,), 'num_register_tokens': 0, 'add_self_attn': False},
        inputs=(Input((2, 1, 3, 12, 6, 3), 'b v t h w c'),),
        parameters=12_470,
        feature_maps=False,
        unused=(*LAST_LAYER, '.*/film/.*', 'task_emb', 'to_extra_token/.*', 'advantage_emb'),
    ),
    Case(
        name='rectangular_film_around_one',
        kwargs={
            **SMALL,
            'siglip_image_size': (12, 20),
            'siglip_patch_size': (6, 4),
            'num_tasks': 6,
            'film_around_one': True,
            'depth': 1,
            'vit_layer_indices': (0,),
        },
        inputs=image(2, 12, 20, 3),
        parameters=13_221,
        call={'tasks': np.array([3, 2])},
        feature_maps=False,
        unused=('vit/transformer/.*', 'advantage_emb'),
        upstream_fails=TypeError,
    ),
    Case(name='siglip', kwargs=EYE, inputs=image(2, 12, 12, 3), parameters=9_136, model='SigLIP'),
    Case(
        name='siglip_hiddens',
        kwargs=EYE,
        inputs=image(2, 6, 12, 3),
        parameters=9_136,
        model='SigLIP',
        options={'return_hiddens': True},
        feature_maps=False,
    ),
]

REFUSED = [
    Refused(
        says=r'vit_layer_indices=\(0, 1, 2, 3\) must be depth=4 numbers from 0 to 2',
        kwargs={**SMALL, 'depth': 4},
        inputs=ONE_VIEW,
    ),
    Refused(
        says=r'images of 3 views: they must be 2',
        kwargs=ROBOT,
        inputs=(Input((2, 3, 3, 12, 12, 3), 'b v t h w c'),),
    ),
    Refused(
        says=r'tasks are given: num_tasks=None must be their number',
        kwargs=SMALL,
        inputs=ONE_VIEW,
        call={'tasks': np.array([0, 1])},
    ),
    Refused(
        says=r'expected 3 channels in the last axis, got shape \(2, 12, 12, 1\)',
        kwargs=EYE,
        inputs=image(2, 12, 12, 1),
        model='SigLIP',
    ),
    Refused(
        says=r'image_size=\(12, 12\) is not divisible by patch_size=\(5, 5\)',
        kwargs={**EYE, 'patch_size': 5},
        inputs=image(2, 12, 12, 3),
        model='SigLIP',
    ),
    Refused(
        says=r'have 6 patches, image_size=12 has positions for 4',
        kwargs=EYE,
        inputs=image(2, 12, 18, 3),
        model='SigLIP',
    ),
]

import numpy as np

from parity_tests.case import Case, Input, Refused, Submodule
from parity_tests.upstream import tables_in_float64

EYE = dict(image_size=(12, 20), patch_size=(6, 4), num_classes=7, dim=22, depth=2, heads=3, dim_head=6, mlp_dim=28)
# 9 frequencies, of which 8 are seen
EAR = dict(
    dim=20,
    depth=2,
    heads=2,
    dim_head=7,
    mlp_dim=24,
    num_classes=9,
    patch_size=(4, 3),
    spec_n_fft=16,
    spec_win_length=10,
    num_register_tokens=3,
)
SMALL = dict(
    vit=Submodule('models.vat', 'ViT', EYE),
    ast=Submodule('models.vaat', 'AST', EAR),
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
ROBOT = {
    **SMALL,
    'num_tasks': 6,
    'dim_extra_token': 9,
    'time_seq_len': 3,
    'num_image_views': 2,
    'num_audio_views': 2,
    'vit_layer_indices': (2, 0),
    'ast_layer_indices': (1, 2),
}
ONE = (Input((2, 1, 12, 20, 3), 'b v h w c'), Input((2, 41), 'b t'))
BOTH = (Input((2, 2, 3, 12, 20, 3), 'b v t h w c'), Input((2, 2, 41), 'b v t'))
rng = np.random.default_rng(0)
STATE = dict(tasks=np.array([4, 1]), extra=rng.normal(size=(2, 9)), advantages=np.array([-1, 2]))
ACTIONS = rng.normal(size=(2, 5, 4))
HEADS = ('vit/mlp_head/.*', 'ast/mlp_head/.*')
# upstream takes the sines of its table in float32, which differ between builds of torch
HEARING = dict(feature_maps=False, upstream_patch=tables_in_float64)
SPEC = {**EAR, 'accept_spec': True, 'accept_spec_time_first': False}

CASES = [
    Case(
        name='images_and_audio',
        kwargs={**SMALL, 'ast': {**EAR, 'depth': 1}, 'depth': 1, 'vit_layer_indices': (2,)},
        inputs=ONE,
        parameters=16_059,
        options={'advantages': 1},
        unused=(*HEADS, 'ast/(transformer|final_norm)/.*'),
        **HEARING,
    ),
    Case(
        name='everything',
        kwargs=ROBOT,
        inputs=BOTH,
        parameters=24_598,
        call=STATE,
        options={'return_hiddens': True},
        unused=HEADS,
        **HEARING,
    ),
    Case(
        name='loss_all_frozen',
        kwargs={**ROBOT, 'depth': 1, 'vit_layer_indices': (2,), 'ast_layer_indices': (2,)},
        inputs=BOTH,
        parameters=19_447,
        call={**STATE, 'actions': ACTIONS},
        options={'freeze_vit': True, 'freeze_ast': True},
        train=True,
        unused=('(vit|ast)/.*',),
        **HEARING,
    ),
    Case(
        name='one_sample_of_two_audio_views',
        kwargs={**ROBOT, 'depth': 1, 'vit_layer_indices': (1,), 'ast_layer_indices': (0,), 'add_self_attn': False},
        inputs=(Input((1, 2, 3, 12, 20, 3), 'b v t h w c'), Input((1, 2, 41), 'b v t')),
        parameters=17_824,
        call={'tasks': np.array([3]), 'extra': rng.normal(size=(1, 9))},
        unused=(
            *HEADS,
            'vit/transformer/(block_1|norm)/.*',
            'ast/(final_norm|transformer)/.*',
            # one block in which tokens do not see each other
            'advantage_emb',
            'register_tokens',
            'to_extra_token/.*',
        ),
        **HEARING,
    ),
    Case(
        name='audio_views_along_views',
        kwargs={
            **ROBOT,
            'audio_view_emb_axis': 'view',
            'num_audio_views': 3,
            'num_tasks': None,
            'depth': 1,
            'vit_layer_indices': (0,),
            'ast_layer_indices': (1,),
        },
        inputs=(BOTH[0], Input((2, 3, 41), 'b v t')),
        parameters=18_675,
        unused=(
            *HEADS,
            'advantage_emb',
            'to_extra_token/.*',
            'vit/transformer/.*',
            'ast/(final_norm|transformer/block_1|transformer/norm)/.*',
        ),
        feature_maps=False,
        upstream_fails=TypeError,
    ),
    Case(
        name='spectrograms_of_settings',
        kwargs={
            **SMALL,
            'vit': EYE,
            'ast': {**SPEC, 'depth': 1, 'num_classes': None},
            'num_advantage_bins': 0,
            'depth': 1,
            'vit_layer_indices': (0,),
        },
        inputs=(ONE[0], Input((2, 10, 9), 'b t f')),
        parameters=15_798,
        unused=('vit/mlp_head/.*', '(vit|ast)/transformer/.*', 'ast/final_norm/.*'),
        **HEARING,
    ),
    Case(name='ast', kwargs=EAR, inputs=ONE[1:], parameters=5_185, model='AST', **HEARING),
    Case(
        name='ast_plain_magnitudes',
        kwargs={
            **EAR,
            'num_classes': None,
            'num_register_tokens': 0,
            'heads': 1,
            'dim_head': 20,
            'patch_size': 4,
            'spec_power': 1,
            'spec_hop_length': 3,
            'spec_pad': 2,
            'spec_pad_mode': 'constant',
        },
        inputs=ONE[1:],
        parameters=5_102,
        model='AST',
        **HEARING,
    ),
    Case(
        name='ast_not_centred',
        kwargs={**EAR, 'spec_center': False, 'spec_power': 3},
        inputs=ONE[1:],
        parameters=5_185,
        model='AST',
        options={'return_hiddens': True},
        unused=('mlp_head/.*',),
        **HEARING,
    ),
    Case(
        name='ast_spectrogram',
        kwargs=SPEC,
        inputs=(Input((2, 10, 9), 'b t f'),),
        parameters=5_185,
        model='AST',
        **HEARING,
    ),
]

REFUSED = [
    Refused(
        says=r'depth=3 is not the depth of ast, 2: say with ast_layer_indices',
        kwargs={**SMALL, 'depth': 3, 'vit_layer_indices': (0, 1, 2)},
        inputs=ONE,
    ),
    Refused(
        says=r'ast_layer_indices=\(0, -4\) must be depth=2 numbers from 0 to 2',
        kwargs={**SMALL, 'ast_layer_indices': (0, -4)},
        inputs=ONE,
    ),
    Refused(
        says=r"audio_view_emb_axis='time' is unknown: use one of 'batch', 'view'",
        kwargs={**SMALL, 'audio_view_emb_axis': 'time'},
        inputs=ONE,
    ),
    Refused(
        says=r"a batch of 3 must be of num_audio_views=2 samples.*audio_view_emb_axis='view'",
        kwargs=ROBOT,
        inputs=(Input((3, 2, 3, 12, 20, 3), 'b v t h w c'), Input((3, 2, 41), 'b v t')),
    ),
    Refused(
        says=r'audio of 1 views: they must be num_audio_views=2',
        kwargs=ROBOT,
        inputs=(BOTH[0], Input((2, 41), 'b t')),
    ),
    Refused(
        says=r'expected audio of layout \[b t\] or \[b v t\], got shape \(2, 1, 41, 9\)',
        kwargs=SMALL,
        inputs=(ONE[0], Input((2, 1, 41, 9), 'b v t f')),
    ),
    Refused(says=r'layout \[b t f\], got shape \(2, 41\)', kwargs=SPEC, inputs=ONE[1:], model='AST'),
    Refused(
        says=r'a spectrogram of shape \(9, 2\) holds no patch of patch_size=\(4, 3\)',
        kwargs=EAR,
        inputs=(Input((2, 9), 'b t'),),
        model='AST',
    ),
    Refused(
        says=r"audio of 5 samples is too short for n_fft=16 with center=True and pad_mode='reflect'",
        kwargs=EAR,
        inputs=(Input((2, 5), 'b t'),),
        model='AST',
    ),
    Refused(
        says=r'n_fft=8 must be at least win_length=10',
        kwargs={**EAR, 'spec_n_fft': 8},
        inputs=ONE[1:],
        model='AST',
    ),
    Refused(
        says=r'spec_power=None must be a finite number above 0',
        kwargs={**EAR, 'spec_power': None},
        inputs=ONE[1:],
        model='AST',
    ),
    Refused(says=r'dim=22 must be a multiple of 4', kwargs={**EAR, 'dim': 22}, inputs=ONE[1:], model='AST'),
]

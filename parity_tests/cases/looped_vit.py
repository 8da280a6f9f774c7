from parity_tests.case import Case, Input, Refused, image

SMALL = dict(
    image_size=(24, 36),
    patch_size=(6, 9),
    num_classes=7,
    dim=20,
    pre_loop_depth=1,
    num_looped_blocks=2,
    post_loop_depth=1,
    loop_depth=2,
    heads=3,
    dim_head=6,
    mlp_dim=28,
)
GATE = {**SMALL, 'pre_loop_depth': 0, 'num_looped_blocks': 1, 'adaptive_loop': True}
PICTURES = image(2, 24, 36, 3)

CASES = [
    Case(name='cls', kwargs=SMALL, inputs=PICTURES, parameters=14_839),
    Case(
        name='all_logits_mean',
        kwargs={**GATE, 'pool': 'mean'},
        inputs=PICTURES,
        parameters=11_456,
        options=dict(return_all_logits=True, loop_depth=3),
        unused=('exit_gate/.*',),
        train=True,
    ),
    Case(
        name='benefits',
        kwargs=GATE,
        inputs=PICTURES,
        parameters=11_456,
        options=dict(return_all_logits=True, return_exit_benefits=True),
    ),
    Case(
        name='early_exit',
        kwargs=GATE,
        inputs=PICTURES,
        parameters=11_456,
        options=dict(adaptive_exit=True, exit_threshold=1e3),
        unused=('exit_gate/.*',),
    ),
    Case(
        name='no_exit',
        kwargs={**GATE, 'exit_threshold': -1e3},
        inputs=PICTURES,
        parameters=11_456,
        options=dict(adaptive_exit=True),
        unused=('exit_gate/.*',),
    ),
    Case(
        name='one_axis_pooled_tokens',
        kwargs={
            **SMALL,
            'image_size': None,
            'input_shape': 18,
            'ndim': 1,
            'patch_size': 3,
            'num_classes': 0,
            'pre_loop_depth': 0,
            'num_looped_blocks': 1,
            'loop_depth': 1,
        },
        inputs=(Input((2, 18, 3), 'b n c'),),
        parameters=5_936,
    ),
    Case(
        name='volume_grey',
        kwargs={
            **SMALL,
            'image_size': (4, 6, 10),
            'patch_size': (2, 3, 5),
            'channels': 1,
            'post_loop_depth': 0,
            'num_looped_blocks': 1,
            'loop_depth': 1,
        },
        inputs=(Input((2, 4, 6, 10, 1), 'b t h w c'),),
        parameters=6_543,
    ),
]

REFUSED = [
    Refused(
        says=r'input_shape=None must be given, or image_size', kwargs={**SMALL, 'image_size': None}, inputs=PICTURES
    ),
    Refused(
        says=r'input_shape=\(25, 36\) is not divisible by patch_size=\(6, 9\)',
        kwargs={**SMALL, 'image_size': (25, 36)},
        inputs=PICTURES,
    ),
    Refused(
        says=r'patch_size=\(6, 9, 2\) must be one number or 2',
        kwargs={**SMALL, 'patch_size': (6, 9, 2)},
        inputs=PICTURES,
    ),
    Refused(
        says=r"weighting='first' is unknown: use one of 'final'",
        kwargs={**SMALL, 'deep_supervision_weighting': 'first'},
        inputs=PICTURES,
    ),
    Refused(
        says=r'weighting=\(1.0, 2.0, 3.0\) must hold 2 weights',
        kwargs={**SMALL, 'deep_supervision_weighting': (1.0, 2.0, 3.0)},
        inputs=PICTURES,
    ),
    Refused(
        says=r'ndim=8 must be between 1 and 7',
        kwargs={**SMALL, 'image_size': (6,) * 8, 'patch_size': 6},
        inputs=PICTURES,
    ),
    Refused(says=r"pool='max' is unknown", kwargs={**SMALL, 'pool': 'max'}, inputs=PICTURES),
    Refused(says=r'must be of input_shape=\(24, 36\)', kwargs=SMALL, inputs=image(2, 12, 36, 3)),
    Refused(says=r'loop_depth=0 must be at least 1', kwargs={**SMALL, 'loop_depth': 0}, inputs=PICTURES),
    Refused(
        says=r'adaptive_loop=False: adaptive_exit and return_exit_benefits need',
        kwargs=SMALL,
        inputs=PICTURES,
        call=dict(adaptive_exit=True),
    ),
    Refused(
        says=r'loop_depth=1 must be at least 2',
        kwargs=GATE,
        inputs=PICTURES,
        call=dict(return_exit_benefits=True, loop_depth=1),
    ),
]

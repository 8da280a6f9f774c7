from parity_tests.case import Case, Refused, image

SMALL = dict(img_size=(24, 36), patch_size=(4, 9), num_classes=7, embed_dim=20, depth=2, num_heads=4, mlp_ratio=1.45)
IMAGES = image(2, 24, 36, 3)
REGISTERS = dict(reg_tokens=3, no_embed_class=True, init_values=0.1)
CLIP = dict(pre_norm=True, act='quick_gelu', norm_eps=1e-5)
AIM = dict(
    class_token=False, global_pool='avg', mlp='swiglu', act='silu', norm='rms', norm_eps=1e-5, embed_norm=True,
    qkv_bias=False, proj_bias=False,
)  # fmt: skip

# upstream rounds there what the reference does not
RESAMPLED: dict = dict(upstream_tolerance=1e-5, upstream_reason='positions are resampled in float32')


def narrow(args):
    """What becomes of arguments of a published network at the sizes of `SMALL`: hidden widths that are halved."""
    return {'mlp_ratio': 1.5} if args.get('mlp') == 'swiglu_packed' else {}


CASES = [
    Case(name='token', kwargs=SMALL, inputs=IMAGES, parameters=8_825),
    Case(
        name='average_of_registers',
        kwargs={**SMALL, **REGISTERS, 'global_pool': 'avg'},
        inputs=IMAGES,
        parameters=8_945,
    ),
    Case(name='clip', kwargs={**SMALL, **CLIP}, inputs=IMAGES, parameters=8_845),
    Case(
        name='siglip',
        kwargs={**SMALL, 'class_token': False, 'global_pool': 'map', 'act': 'gelu_tanh'},
        inputs=IMAGES,
        parameters=11_734,
    ),
    Case(name='aim', kwargs={**SMALL, **AIM}, inputs=IMAGES, parameters=9_607),
    Case(
        name='dino_giant',
        kwargs={
            **SMALL,
            'mlp_ratio': 1.5,
            'mlp': 'swiglu_packed',
            'act': 'silu',
            'init_values': 1e-5,
            'num_classes': 0,
        },
        inputs=IMAGES,
        parameters=8_240,
    ),
    Case(
        name='beit_3',
        kwargs={**SMALL, 'scale_attn_norm': True, 'scale_mlp_norm': True, 'qk_norm': True},
        inputs=IMAGES,
        parameters=9_061,
    ),
    Case(name='distilled', kwargs={**SMALL, 'distilled': True}, inputs=IMAGES, parameters=9_012),
    Case(
        name='distilled_train',
        kwargs={**SMALL, 'distilled': True},
        inputs=IMAGES,
        parameters=9_012,
        train=True,
    ),
    Case(
        name='mean_and_max',
        kwargs={**SMALL, 'reg_tokens': 2, 'global_pool': 'avgmax', 'pool_include_prefix': True, 'fc_norm': False},
        inputs=IMAGES,
        parameters=8_905,
    ),
    Case(
        name='max_without_norm',
        kwargs={
            **SMALL,
            'mlp_ratio': 1.5,
            'mlp': 'glu',
            'class_token': False,
            'global_pool': 'max',
            'final_norm': False,
        },
        inputs=IMAGES,
        parameters=8_227,
    ),
    Case(
        name='tokens_without_positions',
        kwargs={**SMALL, 'pos_embed': 'none', 'global_pool': '', 'reg_tokens': 1},
        inputs=IMAGES,
        parameters=8_345,
    ),
    Case(
        name='any_size',
        kwargs={**SMALL, 'dynamic_img_size': True},
        inputs=image(2, 36, 27, 3),
        parameters=8_825,
        **RESAMPLED,
    ),
    Case(
        name='cut_off',
        kwargs={**SMALL, 'img_size': (26, 43)},
        inputs=image(2, 26, 43, 3),
        parameters=8_825,
    ),
    Case(
        name='padded',
        kwargs={**SMALL, 'img_size': (26, 36), 'dynamic_img_pad': True, 'dynamic_img_size': True},
        inputs=image(2, 23, 30, 3),
        parameters=8_825,
        **RESAMPLED,
    ),
    Case(
        name='representation',
        kwargs={**SMALL, 'representation_size': 11, 'qk_scale': 0.3},
        inputs=IMAGES,
        parameters=8_993,
        upstream_fails=TypeError,
    ),
]

REFUSED = [
    Refused(says='num_heads=3 must divide embed_dim=20', kwargs={**SMALL, 'num_heads': 3}, inputs=IMAGES),
    Refused(says="global_pool='token' needs class_token=True", kwargs={**SMALL, 'class_token': False}, inputs=IMAGES),
    Refused(
        says="distilled=True reads its two tokens: it needs global_pool='token'",
        kwargs={**SMALL, 'distilled': True, 'global_pool': 'avg'},
        inputs=IMAGES,
    ),
    Refused(says="mlp='glu' halves its hidden width", kwargs={**SMALL, 'mlp': 'glu'}, inputs=IMAGES),
    Refused(
        says=r'img_size=\(24, 36\) one of \(6, 4\): dynamic_img_size=True takes them',
        kwargs=SMALL,
        inputs=image(2, 20, 36, 3),
    ),
    Refused(
        says=r'height and width of the images=\(22, 36\) is not divisible', kwargs=SMALL, inputs=image(2, 22, 36, 3)
    ),
    Refused(says=r"global_pool='mean' must be", kwargs={**SMALL, 'global_pool': 'mean'}, inputs=IMAGES),
]

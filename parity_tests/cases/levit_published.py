from parity_tests.case import Case, Refused, image

SMALL = dict(
    img_size=(48, 64), num_classes=7, embed_dim=(8, 12), key_dim=4, depth=(1, 2), num_heads=(2, 3), attn_ratio=1.5,
)  # fmt: skip
IMAGES = image(2, 48, 64, 3)
# a stem of stride 8 has more positions
WITH_8 = dict(stem_type='s8', img_size=(24, 32), act_layer='silu')


def narrow(args):
    """What becomes of arguments of a published network at the sizes of `SMALL`."""
    small = {key: SMALL[key] for key in ('key_dim', 'depth')}
    return small | ({'img_size': WITH_8['img_size']} if args.get('stem_type') == 's8' else {})


CASES = [
    Case(name='average', kwargs=SMALL, inputs=IMAGES, parameters=5_806),
    Case(
        name='distilled_convolutions',
        kwargs={**SMALL, **WITH_8, 'distilled': True, 'use_conv': True, 'in_chans': 1},
        inputs=image(2, 24, 32, 1),
        parameters=5_892,
    ),
    Case(
        name='distilled_train',
        kwargs={**SMALL, 'distilled': True, 'attn_act_layer': 'gelu', 'mlp_ratio': (2.0, 1.5)},
        inputs=IMAGES,
        parameters=5_609,
        train=True,
    ),
    Case(name='features', kwargs={**SMALL, 'num_classes': 0, 'num_heads': 2}, inputs=IMAGES, parameters=5_147),
    Case(
        name='every_position',
        kwargs={**SMALL, 'num_classes': 0, 'global_pool': '', 'embed_dim': (8,), 'depth': (1,), 'num_heads': (2,)},
        inputs=IMAGES,
        parameters=1_155,
    ),
]
REFUSED = [
    Refused(says=r'img_size=\(40, 64\) must be multiples of 16', kwargs={**SMALL, 'img_size': (40, 64)}, inputs=IMAGES),
    Refused(says='must be one value, or one for each of the 2 stages', kwargs={**SMALL, 'depth': (1,)}, inputs=IMAGES),
    Refused(says='key_dim=5 must divide', kwargs={**SMALL, 'key_dim': 5}, inputs=IMAGES),
    Refused(says='must be a multiple of 8', kwargs={**SMALL, 'embed_dim': (12, 16)}, inputs=IMAGES),
    Refused(says='the position biases belong to one grid', kwargs=SMALL, inputs=image(2, 64, 64, 3)),
]

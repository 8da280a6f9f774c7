from parity_tests.case import Case, Refused, image

SMALL = dict(
    img_size=(16, 24), patch_size=8, num_classes=7, embed_dim=12, depth=2, num_heads=3, mlp_ratio=1.3,
    cls_attn_layers=1,
)  # fmt: skip
IMAGES = image(2, 16, 24, 3)


def narrow(args):
    """What becomes of arguments of a published network at the sizes of `SMALL`: nothing."""
    return {}


CASES = [
    Case(name='tokens_norm', kwargs={**SMALL, 'tokens_norm': True}, inputs=IMAGES, parameters=5_695),
    Case(
        name='of_another_size',
        kwargs={
            **SMALL,
            'img_size': (32, 48),
            'patch_size': 16,
            'embed_dim': 24,
            'global_pool': 'avg',
            'eta': 0.1,
            'cls_attn_layers': 2,
        },
        inputs=image(2, 32, 48, 3),
        parameters=22_934,
        unused=(
            'cls_token',
            'cls_transformer/block_./(attention|feedforward|feedforward_norm|feedforward_scale)(/.*)?',
        ),
    ),
    Case(
        name='every_token_without_positions',
        kwargs={**SMALL, 'use_pos_embed': False, 'global_pool': '', 'qkv_bias': False, 'norm_eps': 1e-5},
        inputs=IMAGES,
        parameters=4_807,
    ),
    Case(name='features', kwargs={**SMALL, 'num_classes': 0}, inputs=IMAGES, parameters=5_604),
    Case(name='train', kwargs={**SMALL, 'in_chans': 1}, inputs=image(2, 16, 24, 1), parameters=5_641, train=True),
]
REFUSED = [
    Refused(says='num_heads=5 must divide embed_dim=12', kwargs={**SMALL, 'num_heads': 5}, inputs=IMAGES),
    Refused(
        says='patch_size=16 must be 8 or 16, and its half divide embed_dim=12',
        kwargs={**SMALL, 'patch_size': 16, 'img_size': 32},
        inputs=image(2, 32, 32, 3),
    ),
    Refused(says='img_size', kwargs={**SMALL, 'img_size': (20, 24)}, inputs=image(2, 20, 24, 3)),
]

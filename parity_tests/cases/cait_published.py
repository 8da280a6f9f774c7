from parity_tests.case import Case, Refused, image

SMALL = dict(
    img_size=(24, 36), patch_size=(4, 9), num_classes=7, embed_dim=15, depth=2, num_heads=3, mlp_ratio=1.3,
    depth_token_only=1, mlp_ratio_token_only=2.2, init_values=0.1,
)  # fmt: skip
IMAGES = image(2, 24, 36, 3)


def narrow(args):
    """What becomes of arguments of a published network at the sizes of `SMALL`: nothing."""
    return {}


CASES = [
    Case(name='token', kwargs=SMALL, inputs=IMAGES, parameters=7_596),
    Case(
        name='average',
        kwargs={**SMALL, 'global_pool': 'avg', 'qkv_bias': False, 'depth_token_only': 2, 'norm_eps': 1e-5},
        inputs=IMAGES,
        parameters=9_504,
        unused=('cls_token', 'cls_transformer/.*'),
    ),
    Case(
        name='every_token',
        kwargs={**SMALL, 'global_pool': '', 'in_chans': 1},
        inputs=image(2, 24, 36, 1),
        parameters=6_516,
    ),
    Case(name='features', kwargs={**SMALL, 'num_classes': 0}, inputs=IMAGES, parameters=7_484),
]
REFUSED = [
    Refused(says='num_heads=4 must divide embed_dim=15', kwargs={**SMALL, 'num_heads': 4}, inputs=IMAGES),
    Refused(says=r'img_size=\(24, 36\) one of \(6, 4\)', kwargs=SMALL, inputs=image(2, 24, 45, 3)),
    Refused(says='img_size', kwargs={**SMALL, 'img_size': (23, 36)}, inputs=IMAGES),
]

from parity_tests.case import Case, Refused, image

SMALL = dict(
    img_size=(16, 24), patch_size=4, embed_dim=24, depth=2, num_heads=3, mlp_ratio=1.45, pos_embed_grid_size=5,
    out_features=11,
)  # fmt: skip
IMAGES = image(2, 16, 24, 3)


def narrow(args):
    """What becomes of arguments of a published network at the sizes of `SMALL`: the width of few channels."""
    return {'out_features': 11} if 'out_features' in args else {}


CASES = [
    Case(name='squares', kwargs=SMALL, inputs=IMAGES, parameters=20_575),
    Case(
        name='mean',
        kwargs={**SMALL, 'global_pool': 'avg', 'act': 'gelu', 'rope_temperature': 100.0},
        inputs=image(2, 20, 12, 3),
        parameters=10_148,
    ),
    Case(
        name='squares_as_they_are',
        kwargs={**SMALL, 'out_features': 0, 'merge_size': 3},
        inputs=image(2, 12, 24, 3),
        parameters=57_068,
    ),
    # upstream's have their channels last too
    Case(name='patches', kwargs={**SMALL, 'global_pool': ''}, inputs=IMAGES, parameters=10_148, feature_maps=False),
]

REFUSED = [
    Refused(
        says='embed_dim=24 over num_heads=5 must be a multiple of 4', kwargs={**SMALL, 'num_heads': 5}, inputs=IMAGES
    ),
    Refused(
        says='images of 12 x 24 have 3 x 6 patches, which are not divisible by merge_size=2',
        kwargs=SMALL,
        inputs=image(2, 12, 24, 3),
    ),
    Refused(
        says=r'height and width of the images=\(18, 24\) is not divisible',
        kwargs=SMALL,
        inputs=image(2, 18, 24, 3),
    ),
    Refused(says='img_size=3 holds no patch of patch_size=4', kwargs={**SMALL, 'img_size': 3}, inputs=IMAGES),
]

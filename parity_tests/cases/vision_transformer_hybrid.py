from parity_tests.case import Case, Refused, image

# three heads of four: every other size is a multiple of the groups
SMALL = dict(
    img_size=(24, 42), layers=(1, 2), widths=(32, 64), stem_chs=8, num_groups=2, num_classes=7, embed_dim=12, depth=2,
    num_heads=3, mlp_ratio=1.25,
)  # fmt: skip
STEM = {**SMALL, 'layers': (), 'patch_size': (3, 2), 'img_size': (24, 40)}
IMAGES = image(2, 24, 42, 3)


def narrow(args):
    """What becomes of arguments of a published network at the sizes of `SMALL`: as many stages, of one layer."""
    layers = args.get('layers', (3, 4, 9))
    return {'layers': (1,) * len(layers), 'widths': (32, 64, 32, 64)[: max(1, len(layers))]}


CASES = [
    Case(name='stages', kwargs=SMALL, inputs=IMAGES, parameters=16_509),
    Case(name='stem', kwargs=STEM, inputs=image(2, 24, 40, 3), parameters=4_157),
    Case(
        name='any_size',
        kwargs={**STEM, 'dynamic_img_size': True, 'dynamic_img_pad': True, 'pre_norm': True},
        inputs=image(2, 31, 27, 3),
        parameters=4_169,
        upstream_tolerance=1e-5,
        upstream_reason='positions are resampled in float32',
    ),
]

REFUSED = [
    Refused(
        says=r'images of 24 x 36 have features of 6 x 9, which are not divisible by patch_size=\(3, 2\)',
        kwargs={**STEM, 'dynamic_img_size': True},
        inputs=image(2, 24, 36, 3),
    ),
    Refused(
        says=r'img_size=\(24, 42\) one of \(3, 6\): dynamic_img_size=True takes them',
        kwargs=SMALL,
        inputs=image(2, 32, 42, 3),
    ),
    Refused(says='num_groups=3 must divide stem_chs=8', kwargs={**SMALL, 'num_groups': 3}, inputs=IMAGES),
    Refused(says='stem_chs=6 must be a multiple of 8', kwargs={**SMALL, 'stem_chs': 6}, inputs=IMAGES),
    Refused(says=r'widths=\(32, 40\) must be multiples of 32', kwargs={**SMALL, 'widths': (32, 40)}, inputs=IMAGES),
    Refused(says=r'layers=\(1, 2\) needs as many widths', kwargs={**SMALL, 'widths': (32,)}, inputs=IMAGES),
    Refused(says=r'layers=\(1, 0\) must be at least 1 each', kwargs={**SMALL, 'layers': (1, 0)}, inputs=IMAGES),
]

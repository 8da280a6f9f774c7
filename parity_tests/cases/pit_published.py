from parity_tests.case import Case, Refused, image

SMALL = dict(
    img_size=(20, 26), patch_size=4, stride=2, base_dims=(3, 4), depth=(1, 2), heads=(2, 3), mlp_ratio=1.3,
    num_classes=7,
)  # fmt: skip
IMAGES = image(2, 20, 26, 3)


def narrow(args):
    """What becomes of arguments of a published network at the sizes of `SMALL`."""
    return {key: SMALL[key] for key in ('stride', 'base_dims', 'heads')}


THREE = dict(global_pool='', stride=3, base_dims=(2, 4, 3), depth=(1, 1, 1), heads=(3, 3, 8))

CASES = [
    Case(name='token', kwargs=SMALL, inputs=IMAGES, parameters=3_674),
    Case(
        name='distilled',
        kwargs={**SMALL, 'distilled': True, 'in_chans': 1},
        inputs=image(2, 20, 26, 1),
        parameters=3_579,
    ),
    Case(name='distilled_train', kwargs={**SMALL, 'distilled': True}, inputs=IMAGES, parameters=3_771, train=True),
    Case(name='every_token', kwargs={**SMALL, **THREE}, inputs=IMAGES, parameters=6_954),
    Case(name='features', kwargs={**SMALL, 'num_classes': 0}, inputs=IMAGES, parameters=3_583),
]
REFUSED = [
    Refused(says='must have one number for each stage', kwargs={**SMALL, 'heads': (2,)}, inputs=IMAGES),
    Refused(says='each width must be a multiple of the one before', kwargs={**SMALL, 'heads': (2, 2)}, inputs=IMAGES),
    Refused(says="it needs global_pool='token'", kwargs={**SMALL, 'distilled': True, 'global_pool': ''}, inputs=IMAGES),
    Refused(says=r'are not of img_size=\(20, 26\)', kwargs=SMALL, inputs=image(2, 20, 28, 3)),
    Refused(says='holds no patch of patch_size=4', kwargs={**SMALL, 'img_size': 3}, inputs=image(2, 3, 3, 3)),
]

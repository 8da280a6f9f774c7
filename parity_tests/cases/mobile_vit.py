from parity_tests.case import Case, Refused, image

SMALL = dict(
    image_size=(64, 128),
    dims=(6, 10, 14),
    channels=(4, 8, 5, 5, 7, 7, 9, 9, 11, 11, 13),
    num_classes=3,
    expansion=2,
    depths=(1, 1, 1),
)

CASES = [
    Case(name='eval', kwargs=SMALL, inputs=image(2, 64, 128, 3), parameters=16_961),
    Case(
        name='train',
        kwargs={**SMALL, 'expansion': 1, 'patch_size': (2, 1), 'depths': (2, 1, 1)},
        inputs=image(2, 64, 96, 3),
        parameters=16_387,
        train=True,
    ),
    Case(
        name='grey_larger_kernel',
        kwargs={**SMALL, 'kernel_size': 5, 'in_channels': 1},
        inputs=image(2, 64, 128, 1),
        parameters=28_937,
        upstream_fails=TypeError,
    ),
]

REFUSED = [
    Refused(
        says=r'numbers 5 and 6 must be equal',
        kwargs={**SMALL, 'channels': (4, 8, 5, 5, 7, 6, 9, 9, 11, 11, 13)},
        inputs=image(2, 64, 128, 3),
    ),
    Refused(says=r'dims=\(6, 10\) must be 3 numbers', kwargs={**SMALL, 'dims': (6, 10)}, inputs=image(2, 64, 128, 3)),
    Refused(says=r'kernel_size=4 must be odd', kwargs={**SMALL, 'kernel_size': 4}, inputs=image(2, 64, 128, 3)),
    Refused(
        says=r'patch_size=\(2, 2\) does not divide the feature map of 2 x 3', kwargs=SMALL, inputs=image(2, 64, 96, 3)
    ),
    Refused(
        says=r'expected 3 channels in the last axis, got shape \(2, 64, 128, 1\)',
        kwargs=SMALL,
        inputs=image(2, 64, 128, 1),
    ),
]

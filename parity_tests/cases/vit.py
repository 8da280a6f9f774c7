from parity_tests.case import Case, Refused, image

SMALL = dict(image_size=(24, 36), patch_size=(4, 9), num_classes=7, dim=20, depth=2, heads=3, dim_head=6, mlp_dim=28)

CASES = [
    Case(name='cls', kwargs=SMALL, inputs=image(2, 24, 36, 3), parameters=8_559),
    Case(name='mean', kwargs={**SMALL, 'pool': 'mean'}, inputs=image(2, 24, 36, 3), parameters=8_519),
    Case(name='smaller_image', kwargs=SMALL, inputs=image(2, 8, 27, 3), parameters=8_559),
    Case(name='grey', kwargs={**SMALL, 'channels': 1}, inputs=image(2, 24, 36, 1), parameters=6_975),
    Case(name='four_channels', kwargs={**SMALL, 'channels': 4}, inputs=image(2, 24, 36, 4), parameters=9_351),
    Case(name='tokens', kwargs={**SMALL, 'num_classes': 0}, inputs=image(2, 24, 36, 3), parameters=8_412),
    Case(
        name='no_output_projection',
        kwargs={**SMALL, 'heads': 1, 'dim_head': 20, 'depth': 2},
        inputs=image(2, 24, 36, 3),
        parameters=8_039,
    ),
    Case(
        name='square',
        kwargs={**SMALL, 'image_size': 24, 'patch_size': 8},
        inputs=image(2, 24, 24, 3),
        parameters=10_107,
    ),
    Case(name='train', kwargs=SMALL, inputs=image(2, 24, 36, 3), parameters=8_559, train=True),
]

REFUSED = [
    Refused(
        says=r'image_size=\(25, 36\) is not divisible by patch_size=\(4, 9\).*\(24, 36\) and \(28, 36\)',
        kwargs={**SMALL, 'image_size': (25, 36)},
        inputs=image(2, 24, 36, 3),
    ),
    Refused(
        says=r"pool='max' is unknown: use one of 'cls', 'mean'",
        kwargs={**SMALL, 'pool': 'max'},
        inputs=image(2, 24, 36, 3),
    ),
    Refused(says=r'layout \[b h w c\], got shape \(24, 36, 3\)', kwargs=SMALL, inputs=image(24, 36, 3)),
    Refused(
        says=r'expected 3 channels in the last axis, got shape \(2, 3, 24, 36\).*unlike in PyTorch',
        kwargs=SMALL,
        inputs=image(2, 3, 24, 36),
    ),
    Refused(
        says=r'height and width of the images=\(22, 36\) is not divisible', kwargs=SMALL, inputs=image(2, 22, 36, 3)
    ),
    Refused(
        says=r'have 28 patches, image_size=\(24, 36\) has positions for 24.*resize_position_embedding',
        kwargs=SMALL,
        inputs=image(2, 28, 36, 3),
    ),
]

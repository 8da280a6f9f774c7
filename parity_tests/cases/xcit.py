import numpy as np

from parity_tests.case import Case, Refused, image

SMALL = dict(image_size=24, patch_size=4, num_classes=7, dim=20, depth=2, cls_depth=1, heads=3, dim_head=6, mlp_dim=28)
SOME_LAYERS = dict(keep_layers=np.array([False, True]), keep_cls_layers=np.array([True]))


def keep_these(module, call):
    """Upstream draws the surviving layers itself, first of one stack, then of the other."""
    draws = iter([call['keep_layers'], call['keep_cls_layers']])

    def dropout_layers(layers, dropout):
        return [layer for layer, keep in zip(layers, next(draws), strict=True) if keep]

    return {'dropout_layers': dropout_layers}


CASES = [
    Case(name='eval', kwargs=SMALL, inputs=image(2, 24, 24, 3), parameters=11_333),
    Case(name='smaller_image', kwargs={**SMALL, 'depth': 1}, inputs=image(2, 12, 20, 3), parameters=8_082),
    Case(name='train', kwargs=SMALL, inputs=image(2, 24, 20, 3), parameters=11_333, train=True),
    Case(
        name='dropped_layers',
        kwargs=SMALL,
        inputs=image(2, 24, 20, 3),
        parameters=11_333,
        train=True,
        call=SOME_LAYERS,
        unused=('xcit_transformer/block_0/.*',),
        upstream_patch=keep_these,
    ),
    Case(
        name='rectangular_grey',
        kwargs={
            **SMALL,
            'image_size': (24, 36),
            'patch_size': (4, 9),
            'channels': 1,
            'local_patch_kernel_size': 5,
            'depth': 1,
            'cls_depth': 2,
        },
        inputs=image(2, 24, 36, 1),
        parameters=10_966,
        upstream_fails=TypeError,
    ),
]

REFUSED = [
    Refused(
        says=r'local_patch_kernel_size=4 must be odd',
        kwargs={**SMALL, 'local_patch_kernel_size': 4},
        inputs=image(2, 24, 24, 3),
    ),
    Refused(
        says=r'image_size=\(26, 26\) is not divisible', kwargs={**SMALL, 'image_size': 26}, inputs=image(2, 24, 24, 3)
    ),
    Refused(says=r'have 42 patches, image_size=24 has positions for 36', kwargs=SMALL, inputs=image(2, 28, 24, 3)),
    Refused(
        says=r'expected 3 channels in the last axis, got shape \(2, 3, 24, 24\)',
        kwargs=SMALL,
        inputs=image(2, 3, 24, 24),
    ),
]

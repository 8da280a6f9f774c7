from parity_tests.case import Case, Refused, image
from parity_tests.cases.xcit import SOME_LAYERS, keep_these

SMALL = dict(image_size=24, patch_size=4, num_classes=7, dim=20, depth=2, cls_depth=1, heads=3, dim_head=6, mlp_dim=28)

CASES = [
    Case(name='eval', kwargs=SMALL, inputs=image(2, 24, 24, 3), parameters=10_341),
    Case(
        name='dropped_layers',
        kwargs=SMALL,
        inputs=image(2, 20, 16, 3),
        parameters=10_341,
        train=True,
        call=SOME_LAYERS,
        unused=('transformer/block_0/.*',),
        upstream_patch=keep_these,
    ),
    Case(
        name='rectangular_grey',
        kwargs={**SMALL, 'image_size': (24, 36), 'patch_size': (4, 9), 'channels': 1, 'depth': 1, 'cls_depth': 2},
        inputs=image(2, 24, 36, 1),
        parameters=9_837,
        upstream_fails=TypeError,
    ),
]

REFUSED = [
    Refused(says=r'image_size=\(26, 26\) is not', kwargs={**SMALL, 'image_size': 26}, inputs=image(2, 26, 26, 3)),
    Refused(says=r'have 42 patches, image_size=24 has positions for 36', kwargs=SMALL, inputs=image(2, 28, 24, 3)),
]

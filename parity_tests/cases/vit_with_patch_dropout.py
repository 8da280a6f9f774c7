import numpy as np

from parity_tests.case import Case, Refused, image
from parity_tests.cases.simple_vit_with_patch_dropout import keep_these

SMALL = dict(image_size=(24, 36), patch_size=(4, 9), num_classes=7, dim=20, depth=2, heads=3, dim_head=6, mlp_dim=28)
KEPT = dict(kept_patches=np.array([[7, 2, 11, 9, 0], [3, 20, 1, 8, 23]]))

CASES = [
    Case(name='eval', kwargs=SMALL, inputs=image(2, 24, 36, 3), parameters=8_283),
    Case(
        name='dropped',
        kwargs={**SMALL, 'patch_dropout': 0.75, 'pool': 'mean'},
        inputs=image(2, 24, 36, 3),
        parameters=8_283,
        train=True,
        call=KEPT,
        upstream_patch=keep_these,
    ),
    Case(
        name='smaller_image',
        kwargs={**SMALL, 'depth': 1, 'channels': 4},
        inputs=image(2, 20, 27, 4),
        parameters=6_295,
        upstream_fails=RuntimeError,
    ),
]

REFUSED = [
    Refused(
        says=r'patch_dropout=1.0 must be at least 0 and below 1',
        kwargs={**SMALL, 'patch_dropout': 1.0},
        inputs=image(2, 24, 36, 3),
    ),
    Refused(
        says=r'have 28 patches, image_size=\(24, 36\) has positions for 24', kwargs=SMALL, inputs=image(2, 28, 36, 3)
    ),
]

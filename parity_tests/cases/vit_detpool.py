import numpy as np

from parity_tests.case import Case, Refused, Submodule, image

SMALL = dict(image_size=(24, 36), patch_size=(4, 9), num_classes=7, dim=20, depth=2, heads=3, dim_head=6, mlp_dim=28)
RNG = np.random.default_rng(0)
PIXELS = np.zeros((2, 24, 36), bool)
PIXELS[0, 3:9, 5:11] = PIXELS[1, 13, 30] = True
GENERATOR = Submodule(
    'models.vit_detpool', 'BrightMask', dict(threshold=1.4), upstream='vit_torch_ref.models.vit_detpool'
)

CASES = [
    Case(name='no_mask', kwargs=SMALL, inputs=image(2, 24, 36, 3), parameters=8_539),
    Case(
        name='pixels',
        kwargs=SMALL,
        inputs=image(2, 24, 36, 3),
        parameters=8_539,
        call=dict(object_mask=PIXELS),
        train=True,
    ),
    Case(
        name='grid_without_class_token',
        kwargs={**SMALL, 'use_cls_token': False, 'depth': 1, 'channels': 1},
        inputs=image(2, 20, 27, 1),
        parameters=4_227,
        call=dict(object_mask=RNG.uniform(size=(2, 5, 3)) > 0.6),
    ),
    Case(
        name='patches_none_of_them_seen',
        kwargs={**SMALL, 'depth': 1},
        inputs=image(2, 20, 27, 3),
        parameters=5_831,
        call=dict(object_mask=np.array([[True] * 6 + [False] * 9, [False] * 15])),
    ),
    Case(
        name='generated',
        kwargs={**SMALL, 'mask_generator': GENERATOR, 'depth': 1},
        inputs=image(2, 24, 36, 3),
        parameters=5_831,
    ),
    Case(name='tokens', kwargs={**SMALL, 'num_classes': 0, 'depth': 1}, inputs=image(2, 24, 36, 3), parameters=5_684),
]

REFUSED = [
    Refused(
        says=r'object_mask of shape \(2, 36, 24\) must be a mask of pixels \(2, 24, 36\) or of patches \(2, 6, 4\)',
        kwargs=SMALL,
        inputs=image(2, 24, 36, 3),
        call=dict(object_mask=np.zeros((2, 36, 24), bool)),
    ),
    Refused(
        says=r'have 28 patches, image_size=\(24, 36\) has positions for 24', kwargs=SMALL, inputs=image(2, 28, 36, 3)
    ),
]

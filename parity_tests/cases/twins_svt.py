from parity_tests.case import Case, Refused, image

# Heads are 8 and 64 wide in this model, whatever the stage; the rest is small.
SMALL = dict(
    num_classes=7,
    s1_emb_dim=6,
    s1_patch_size=2,
    s1_local_patch_size=4,
    s1_global_k=5,
    s1_depth=0,
    s2_emb_dim=8,
    s2_local_patch_size=2,
    s2_global_k=2,
    s2_depth=0,
    s3_emb_dim=10,
    s3_patch_size=1,
    s3_local_patch_size=2,
    s3_global_k=3,
    s3_depth=1,
    s4_emb_dim=12,
    s4_global_k=1,
    s4_depth=0,
)

CASES = [
    Case(name='eval', kwargs=SMALL, inputs=image(2, 16, 24, 3), parameters=508_015),
    Case(
        name='train',
        kwargs={**SMALL, 's3_depth': 0, 's4_depth': 2, 'peg_kernel_size': 5},
        inputs=image(2, 16, 24, 3),
        parameters=435_607,
        train=True,
    ),
    Case(
        name='grey',
        kwargs={**SMALL, 'channels': 1, 's3_depth': 0},
        inputs=image(2, 16, 24, 1),
        parameters=383_271,
        upstream_fails=TypeError,
    ),
]

REFUSED = [
    Refused(
        says=r'local_patch_size=\(4, 4\) does not divide the feature map of 10 x 12',
        kwargs=SMALL,
        inputs=image(2, 20, 24, 3),
    ),
    Refused(
        says=r'height and width of the feature map=\(21, 24\) is not divisible by patch_size',
        kwargs=SMALL,
        inputs=image(2, 21, 24, 3),
    ),
    Refused(
        says=r'global_k=9 is larger than the feature map of 8 x 12',
        kwargs={**SMALL, 's1_global_k': 9},
        inputs=image(2, 16, 24, 3),
    ),
    Refused(
        says=r'kernel_size=4 must have an odd one', kwargs={**SMALL, 'peg_kernel_size': 4}, inputs=image(2, 16, 24, 3)
    ),
    Refused(
        says=r'expected 3 channels in the last axis, got shape \(2, 16, 24, 1\)',
        kwargs=SMALL,
        inputs=image(2, 16, 24, 1),
    ),
]

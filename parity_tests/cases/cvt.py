from parity_tests.case import Case, Refused, image

# Heads are 64 wide in this model, whatever the stage; the rest is small.
SMALL = dict(
    num_classes=7,
    s1_emb_dim=8,
    s1_emb_kernel=5,
    s1_emb_stride=4,
    s1_depth=1,
    s1_mlp_mult=2,
    s2_emb_dim=12,
    s2_heads=2,
    s2_depth=1,
    s2_mlp_mult=3,
    s3_emb_dim=20,
    s3_heads=1,
    s3_depth=2,
)

CASES = [
    Case(name='eval', kwargs=SMALL, inputs=image(2, 40, 52, 3), parameters=31_735),
    Case(name='train', kwargs=SMALL, inputs=image(2, 40, 52, 3), parameters=31_735, train=True),
    Case(
        name='kernels',
        kwargs={
            **SMALL,
            's3_depth': 1,
            's1_proj_kernel': 5,
            's2_proj_kernel': 1,
            's1_kv_proj_stride': 3,
            's2_kv_proj_stride': 1,
            's3_emb_kernel': 5,
            's3_emb_stride': 3,
        },
        inputs=image(2, 37, 55, 3),
        parameters=26_679,
    ),
    Case(name='grey', kwargs={**SMALL, 'channels': 1, 's3_depth': 1}, inputs=image(2, 32, 44, 1), parameters=22_375),
]

REFUSED = [
    Refused(says=r's2_proj_kernel=4 must be odd', kwargs={**SMALL, 's2_proj_kernel': 4}, inputs=image(2, 40, 52, 3)),
    Refused(says=r's1_emb_kernel=6 must be odd', kwargs={**SMALL, 's1_emb_kernel': 6}, inputs=image(2, 40, 52, 3)),
    Refused(
        says=r'expected 3 channels in the last axis, got shape \(2, 40, 52, 1\)',
        kwargs=SMALL,
        inputs=image(2, 40, 52, 1),
    ),
    Refused(says=r'layout \[b h w c\], got shape \(40, 52, 3\)', kwargs=SMALL, inputs=image(40, 52, 3)),
]

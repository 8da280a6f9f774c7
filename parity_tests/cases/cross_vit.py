from parity_tests.case import Case, Refused, image

SMALL = dict(
    image_size=24,
    num_classes=7,
    sm_dim=10,
    sm_patch_size=4,
    sm_enc_depth=1,
    sm_enc_heads=2,
    sm_enc_mlp_dim=18,
    sm_enc_dim_head=9,
    lg_dim=14,
    lg_patch_size=8,
    lg_enc_depth=2,
    lg_enc_heads=3,
    lg_enc_mlp_dim=22,
    lg_enc_dim_head=6,
    cross_attn_depth=1,
    cross_attn_heads=4,
    cross_attn_dim_head=5,
    depth=1,
    dropout=0.0,
    emb_dropout=0.0,
)
CASES = [
    Case(name='eval', kwargs=SMALL, inputs=image(2, 24, 24, 3), parameters=11_750),
    Case(
        name='smaller_image_several_exchanges',
        kwargs={**SMALL, 'depth': 2, 'lg_enc_depth': 1, 'cross_attn_depth': 2},
        inputs=image(2, 8, 16, 3),
        parameters=20_756,
    ),
    Case(
        name='one_width',
        kwargs={**SMALL, 'sm_dim': 14, 'lg_enc_depth': 1},
        inputs=image(2, 24, 24, 3),
        parameters=10_600,
        train=True,
    ),
    Case(
        name='rectangular_grey',
        kwargs={
            **SMALL,
            'image_size': (24, 36),
            'sm_patch_size': (4, 6),
            'lg_patch_size': (8, 18),
            'channels': 1,
            'lg_enc_depth': 1,
        },
        inputs=image(2, 24, 36, 1),
        parameters=8_922,
        upstream_fails=TypeError,
    ),
]

REFUSED = [
    Refused(
        says=r'image_size for lg_patch_size=\(20, 20\) is not divisible by patch_size=\(8, 8\)',
        kwargs={**SMALL, 'image_size': 20},
        inputs=image(2, 20, 20, 3),
    ),
    Refused(says=r'have 42 patches, image_size=24 has positions for 36', kwargs=SMALL, inputs=image(2, 24, 28, 3)),
    Refused(says=r'expected 3 channels in the last axis', kwargs=SMALL, inputs=image(2, 24, 24, 4)),
]

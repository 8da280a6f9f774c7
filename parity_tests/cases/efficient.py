from typing import Any

from parity_tests.case import Case, Refused, Submodule, image


def nystromformer(**kwargs: Any) -> Submodule:
    settings = dict(dim=20, depth=2, heads=3, dim_head=6, num_landmarks=4, attn_values_residual_conv_kernel=5)
    return Submodule('transformers.nystromformer', 'Nystromformer', settings | kwargs, upstream='nystrom_attention')


def encoder(**kwargs: Any) -> Submodule:
    settings = dict(dim=20, depth=2, heads=3, attn_dim_head=6, ff_mult=2)
    return Submodule('transformers.x_transformers', 'Encoder', settings | kwargs, upstream='x_transformers')


SMALL = dict(image_size=(24, 36), patch_size=6, num_classes=7, dim=20)
FLOAT32_SOFTMAX = dict(
    upstream_tolerance=1e-5, upstream_reason='x-transformers takes the softmax in float32, the reference in float64'
)

# upstream's example: 4,096 patches
PAPER_SIZE = dict(
    image_size=2048,
    patch_size=32,
    num_classes=1000,
    dim=512,
    transformer=nystromformer(
        dim=512, depth=12, heads=8, dim_head=64, num_landmarks=256, attn_values_residual_conv_kernel=33
    ),
)

CASES = [
    Case(
        name='encoder_glu_residual',
        kwargs={**SMALL, 'transformer': encoder(ff_glu=True, residual_attn=True)},
        inputs=image(2, 24, 36, 3),
        parameters=11_123,
        **FLOAT32_SOFTMAX,
    ),
    Case(
        name='encoder_plain_mean',
        kwargs={**SMALL, 'pool': 'mean', 'transformer': encoder(ff_relu_squared=True, use_simple_rmsnorm=True)},
        inputs=image(2, 24, 36, 3),
        parameters=9_343,
        **FLOAT32_SOFTMAX,
    ),
    Case(
        name='encoder_qk_norm_one_head',
        kwargs={
            **SMALL,
            'transformer': encoder(
                heads=1, attn_dim_head=20, attn_qk_norm=True, use_rmsnorm=True, ff_swish=True, ff_glu=True, depth=1
            ),
        },
        inputs=image(2, 12, 36, 3),
        parameters=6_903,
    ),
    Case(
        name='encoder_scalenorm',
        kwargs={**SMALL, 'channels': 1, 'transformer': encoder(use_scalenorm=True, depth=1)},
        inputs=image(2, 24, 36, 1),
        parameters=4_662,
        **FLOAT32_SOFTMAX,
    ),
    Case(
        name='nystromformer',
        kwargs={**SMALL, 'transformer': nystromformer()},
        inputs=image(2, 24, 36, 3),
        parameters=12_853,
    ),
    Case(
        name='nystromformer_whole_segments',
        kwargs={
            **SMALL,
            'transformer': nystromformer(num_landmarks=5, attn_values_residual=False, pinv_iterations=3, depth=1),
        },
        inputs=image(2, 24, 36, 3),
        parameters=7_983,
        train=True,
    ),
    Case(
        name='rectangular_patches',
        kwargs={**SMALL, 'patch_size': (6, 4), 'transformer': nystromformer(depth=1, num_landmarks=50)},
        inputs=image(2, 24, 36, 3),
        parameters=7_446,
        upstream_fails=TypeError,
    ),
]

REFUSED = [
    Refused(
        says=r"pool='max' is unknown: use one of 'cls', 'mean'",
        kwargs={**SMALL, 'pool': 'max', 'transformer': encoder()},
        inputs=image(2, 24, 36, 3),
    ),
    Refused(
        says=r'dim=24 of the transformer does not fit tokens of shape \(2, 25, 20\)',
        kwargs={**SMALL, 'transformer': encoder(dim=24)},
        inputs=image(2, 24, 36, 3),
    ),
    Refused(
        says=r'dim=24 of the transformer does not fit',
        kwargs={**SMALL, 'transformer': nystromformer(dim=24)},
        inputs=image(2, 24, 36, 3),
    ),
    Refused(
        says=r'attn_values_residual_conv_kernel=4 must be odd',
        kwargs={**SMALL, 'transformer': nystromformer(attn_values_residual_conv_kernel=4)},
        inputs=image(2, 24, 36, 3),
    ),
    Refused(
        says=r'use_rmsnorm and use_scalenorm are both True',
        kwargs={**SMALL, 'transformer': encoder(use_rmsnorm=True, use_scalenorm=True)},
        inputs=image(2, 24, 36, 3),
    ),
    Refused(
        says=r'attn_dim_head=6 must be dim=20 with heads=1',
        kwargs={**SMALL, 'transformer': encoder(heads=1)},
        inputs=image(2, 24, 36, 3),
    ),
    Refused(
        says=r'image_size=\(25, 36\) is not divisible',
        kwargs={**SMALL, 'image_size': (25, 36), 'transformer': encoder()},
        inputs=image(2, 24, 36, 3),
    ),
    Refused(
        says=r'expected 3 channels in the last axis',
        kwargs={**SMALL, 'transformer': encoder()},
        inputs=image(2, 24, 36, 1),
    ),
]

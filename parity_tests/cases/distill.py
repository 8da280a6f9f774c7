import numpy as np

from parity_tests.case import Case, Refused, Submodule, image

SMALL = dict(image_size=(24, 36), patch_size=(4, 9), num_classes=7, dim=20, depth=2, heads=3, dim_head=6, mlp_dim=28)
TOKEN = dict(distill_token=np.random.default_rng(0).normal(size=(1, 20)))
T2T = dict(
    image_size=24,
    num_classes=7,
    dim=20,
    depth=1,
    heads=3,
    dim_head=6,
    mlp_dim=28,
    t2t_layers=((3, 2), (3, 2)),
)
EFFICIENT = dict(
    image_size=(24, 36),
    patch_size=6,
    num_classes=7,
    dim=20,
    transformer=Submodule(
        'transformers.nystromformer',
        'Nystromformer',
        dict(dim=20, depth=1, dim_head=6, heads=2, num_landmarks=4),
        upstream='nystrom_attention',
    ),
)

CASES = [
    Case(
        name='no_token',
        kwargs={**SMALL, 'depth': 1, 'channels': 1},
        inputs=image(2, 24, 36, 1),
        parameters=4_267,
    ),
    Case(name='token', kwargs=SMALL, inputs=image(2, 24, 36, 3), call=TOKEN, parameters=8_559),
    Case(
        name='mean',
        kwargs={**SMALL, 'depth': 1, 'pool': 'mean'},
        inputs=image(2, 24, 36, 3),
        call=TOKEN,
        parameters=5_811,
        train=True,
    ),
    Case(
        name='t2t',
        model='DistillableT2TViT',
        kwargs=T2T,
        inputs=image(2, 24, 24, 3),
        call=TOKEN,
        parameters=12_396,
        upstream_fails=RuntimeError,
    ),
    Case(
        name='efficient_mean',
        model='DistillableEfficientViT',
        kwargs={**EFFICIENT, 'pool': 'mean'},
        inputs=image(2, 24, 36, 3),
        call=TOKEN,
        parameters=7_569,
        upstream_fails=RuntimeError,
    ),
    Case(
        name='efficient_no_token',
        model='DistillableEfficientViT',
        kwargs=EFFICIENT,
        inputs=image(2, 24, 36, 3),
        parameters=7_569,
        upstream_fails=RuntimeError,
    ),
]

REFUSED = [
    Refused(
        says=r"pool='max' is unknown: use one of 'cls', 'mean'",
        kwargs={**SMALL, 'pool': 'max'},
        inputs=image(2, 24, 36, 3),
    ),
    Refused(
        says=r'image_size=3 is too small for t2t_layers=',
        model='DistillableT2TViT',
        kwargs={**T2T, 'image_size': 3, 't2t_layers': ((3, 2), (7, 2))},
        inputs=image(2, 3, 3, 3),
    ),
    Refused(
        says=r'expected 3 channels in the last axis',
        model='DistillableEfficientViT',
        kwargs=EFFICIENT,
        inputs=image(2, 24, 36, 1),
    ),
]

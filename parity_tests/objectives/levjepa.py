import numpy as np
import torch

from parity_tests.case import Input, Refused, Submodule
from parity_tests.cases import levjepa as encoders
from parity_tests.objective_case import ObjectiveCase
from parity_tests.upstream import TorchWith

OBJECTIVE = 'LeVJEPA'
SIZE = 10
# places that float32, which upstream takes for them, has exactly: four frames of 2 x 2 patches
ENCODER = Submodule(
    'models.levjepa', 'VideoTransformer', {**encoders.SMALL, 'image_size': SIZE, 'patch_size': 5, 'frames': 4}
)
SLICES, PATCHES, KEPT, PROJECTED = 17, 16, 7, 13
PROJECTION = dict(
    num_classes_K=PROJECTED,
    projection_hidden=11,
    drop_ratio=0.55,
    sigreg_loss_kwargs={'num_proj': SLICES, 'knots': 9},
)
SMALL = dict(encoder=ENCODER, image_size=SIZE, local_size=SIZE, num_local_views=3, **PROJECTION)
VIEWS = tuple(Input((count, 4, 4, SIZE, SIZE, 3), 'v b t h w c') for count in (1, 3))


def draws(rng: np.random.Generator, patches: int = PATCHES, views: int = 16) -> dict[str, np.ndarray]:
    """Directions, and what is read of all views of four inputs."""
    return {
        'projections': rng.normal(size=(SLICES, PROJECTED)),
        'kept_patches': rng.permuted([[*range(patches)]] * views, axis=1)[:, :KEPT],
    }


def draw_these(module, call):
    """Upstream's draws, its knots in float64, and its own mask as an array."""
    return encoders.as_arrays(module, call) | {'torch': drawing(call)}


def drawing(call):
    return TorchWith(
        compile=lambda rule: rule,
        rand=lambda *size, device: encoders.drawn(call, *size),
        randn=lambda *size, device: call['projections'].mT,
        linspace=lambda *ends, device: torch.linspace(*ends, dtype=torch.float64),
    )


def given_views(model):
    """Upstream would crop and colour the video itself."""
    forward = model.forward

    def of_views(large, small, return_loss_breakdown=False):
        model.global_crop, model.local_crop = lambda _: large[0], lambda _: small.transpose(0, 1).flatten(0, 1)
        return forward(large[0], return_loss_breakdown=return_loss_breakdown)

    for name in ('global_crop', 'local_crop', 'global_augment', 'local_augment'):
        delattr(model, name)
    model.global_augment = model.local_augment = lambda view: view
    model.forward = of_views


UPSTREAM = dict(upstream_patch=draw_these, upstream_mend=given_views)

CASES = [
    ObjectiveCase(
        name='batch_norm', kwargs=SMALL, inputs=VIEWS, draw=draws, parameters=5_192, optimizer='sgd', **UPSTREAM
    ),
    ObjectiveCase(
        name='standardised_breakdown',
        kwargs={
            **SMALL,
            'use_batch_norm': False,
            'use_weight_standardization': True,
            'invariance_loss_weight': 0.6,
            'sigreg_loss_weight': 0.3,
        },
        inputs=VIEWS,
        draw=draws,
        options={'return_loss_breakdown': True},
        parameters=5_181,
        **UPSTREAM,
    ),
    ObjectiveCase(
        name='paper',
        kwargs={**SMALL, 'views_in_order': True},
        inputs=VIEWS,
        draw=draws,
        parameters=5_192,
        optimizer='sgd',
        upstream_fails=TypeError,
    ),
]

REFUSED = [
    Refused(
        says=r'local_size=9 must equal image_size=10',
        kwargs={**SMALL, 'local_size': 9},
        inputs=VIEWS,
        call={'projections': np.zeros((SLICES, PROJECTED))},
    ),
    Refused(
        says=r'global_views of shape \(3, 4, 4, 10, 10, 3\) must be one view of the shape of local_views',
        kwargs=SMALL,
        inputs=(VIEWS[1], VIEWS[1]),
        call={'projections': np.zeros((SLICES, PROJECTED))},
    ),
    Refused(
        says=r"sigreg_loss_kwargs has \['num_knots'\]: it may have \['knots', 'num_proj'\]",
        kwargs={**SMALL, 'sigreg_loss_kwargs': {'num_knots': 3}},
        inputs=VIEWS,
        call={'projections': np.zeros((SLICES, PROJECTED))},
    ),
]

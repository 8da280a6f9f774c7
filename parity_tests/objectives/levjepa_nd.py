import numpy as np

from parity_tests.case import Input, Refused, Submodule
from parity_tests.cases import levjepa_nd as encoders
from parity_tests.objective_case import ObjectiveCase
from parity_tests.objectives.levjepa import PROJECTED, PROJECTION, SLICES, drawing, draws

OBJECTIVE = 'LeVJEPAND'
# places that float32, which upstream takes for them, has exactly: 4 x 4 patches
SHAPE = (12, 20)
ENCODER = Submodule(
    'models.levjepa_nd', 'NDTransformer', {**encoders.WIDTHS, 'ndim': 2, 'input_shape': SHAPE, 'patch_size': (3, 5)}
)
SMALL = dict(encoder=ENCODER, input_shape=SHAPE, num_target_aug_views=2, **PROJECTION)
VIEWS = tuple(Input((count, 4, *SHAPE, 3), 'v b f g c') for count in (1, 2))


def draw_these(module, call):
    """Upstream's draws, its knots in float64, and its own mask as an array."""
    return {'flex_attention_supported': lambda device: False, 'torch': drawing(call)}


def given_views(model):
    """Upstream would augment the input itself."""
    forward = model.forward

    def of_views(source, targets, return_loss_breakdown=False):
        model.augment_src, model.augment_tgt = lambda _: source[0], lambda _: targets.transpose(0, 1).flatten(0, 1)
        return forward(source[0], return_loss_breakdown=return_loss_breakdown)

    del model.augment_src, model.augment_tgt
    model.forward = of_views


CASES = [
    ObjectiveCase(
        name='two_axes',
        kwargs={**SMALL, 'use_batch_norm': False},
        inputs=VIEWS,
        draw=lambda rng: draws(rng, views=12),
        parameters=4_551,
        upstream_patch=draw_these,
        upstream_mend=given_views,
    ),
    ObjectiveCase(
        name='paper',
        kwargs={**SMALL, 'views_in_order': True},
        inputs=VIEWS,
        draw=lambda rng: draws(rng, views=12),
        parameters=4_562,
        optimizer='sgd',
        upstream_fails=TypeError,
    ),
]

REFUSED = [
    Refused(
        says=r'input_shape=\(12, 15\) must be that of the encoder, \(12, 20\)',
        kwargs={**SMALL, 'input_shape': (12, 15)},
        inputs=VIEWS,
        call={'projections': np.zeros((SLICES, PROJECTED))},
    ),
]

import torch

from parity_tests.case import Input, Refused
from parity_tests.objective_case import ObjectiveCase
from parity_tests.upstream import TorchWith
from parity_tests.views import SIMPLE_VIT, SIZE, VIT, given_views, positions_in_float64, views

OBJECTIVE = 'LeJEPA'
SLICES = 17
SMALL = dict(image_size=SIZE, projection_hidden_size=11, num_classes_K=13, projection_layers=3)
SIGREG = {'sigreg_loss_kwargs': {'num_slices': SLICES, 'domain': (-4, 4), 'num_knots': 9}}
UPSTREAM = dict(encoder='net', upstream_mend=given_views)
NO_HEAD = ('encoder/mlp_head/.*',)


def directions(rng):
    return {'projections': rng.normal(size=(SLICES, SMALL['num_classes_K']))}


def draw_these(module, call):
    """Upstream's directions, and its knots in float64."""
    return {
        'torch': TorchWith(
            randn=lambda *size, device: call['projections'],
            linspace=lambda *ends, device: torch.linspace(*ends, dtype=torch.float64),
        )
    }


CASES = [
    ObjectiveCase(
        name='vit',
        kwargs=dict(net=VIT, **SMALL, **SIGREG),
        inputs=views(2, 2),
        draw=directions,
        parameters=5_578,
        unused=NO_HEAD,
        upstream_patch=draw_these,
        **UPSTREAM,
    ),
    ObjectiveCase(
        name='average_alone',
        kwargs=dict(net=SIMPLE_VIT, **SMALL, moving_average_decay=0.8, target_loss_weight=3.0),
        inputs=views(2, 2),
        parameters=5_038,
        unused=('encoder/linear_head/.*',),
        optimizer='sgd',
        post_update='update_moving_average',
        upstream_prepare=positions_in_float64,
        **UPSTREAM,
    ),
    ObjectiveCase(
        name='average_and_sigreg',
        kwargs=dict(net=VIT, **SMALL, **SIGREG, use_ema=True, use_sigreg=True, sigreg_loss_weight=0.3),
        inputs=views(2, 2),
        draw=directions,
        parameters=5_578,
        unused=NO_HEAD,
        post_update='update_moving_average',
        upstream_patch=draw_these,
        **UPSTREAM,
    ),
    ObjectiveCase(
        name='paper',
        kwargs=dict(net=VIT, **SMALL, **SIGREG, target_loss_weight=0.95, sigreg_loss_weight=0.05, predict_mean=True),
        inputs=views(2, 3),
        draw=directions,
        parameters=5_578,
        unused=NO_HEAD,
        upstream_fails=TypeError,
        encoder='net',
    ),
    ObjectiveCase(
        name='paper_tokens',
        kwargs=dict(net=VIT, **SMALL, **SIGREG, hidden_layer='transformer', predict_mean=True, average_places=True),
        inputs=views(2, 3),
        draw=directions,
        parameters=5_578,
        unused=NO_HEAD,
        upstream_fails=TypeError,
        encoder='net',
    ),
]

REFUSED = [
    Refused(
        says=r'projections=None must be the directions of SIGReg',
        kwargs=dict(net=VIT, **SMALL),
        inputs=views(2, 2),
    ),
    Refused(
        says=r"sigreg_loss_kwargs has \['slices'\]: it may have \['domain', 'num_knots', 'num_slices'\]",
        kwargs=dict(net=VIT, **SMALL, sigreg_loss_kwargs={'slices': 3}),
        inputs=(*views(2, 2), Input((3, 13), 's d')),
    ),
    Refused(
        says='predict_mean=True has no target encoder',
        kwargs=dict(net=VIT, **SMALL, use_ema=True, predict_mean=True),
        inputs=views(2, 2),
    ),
]

import numpy as np

from parity_tests.case import Refused
from parity_tests.objective_case import ObjectiveCase
from parity_tests.views import CVT, SIMPLE_VIT, SIZE, VIT, given_views, positions_in_float64, views

OBJECTIVE = 'Dino'
SMALL = dict(image_size=SIZE, projection_hidden_size=11, num_classes_K=13, projection_layers=3)
UPSTREAM = dict(encoder='net', post_update='update_moving_average', upstream_mend=given_views)

CASES = [
    ObjectiveCase(
        name='vit',
        kwargs=dict(net=VIT, **SMALL),
        inputs=views(2, 2),
        parameters=5_578,
        unused=('encoder/mlp_head/.*',),
        **UPSTREAM,
    ),
    ObjectiveCase(
        name='temperatures_and_decays',
        kwargs=dict(
            net=SIMPLE_VIT, **SMALL, student_temp=0.3, moving_average_decay=0.8, center_moving_average_decay=0.7
        ),
        inputs=views(2, 2),
        draw=lambda rng: {'teacher_temp': np.asarray(rng.uniform(0.05, 0.5))},
        parameters=5_038,
        unused=('encoder/linear_head/.*',),
        optimizer='sgd',
        upstream_prepare=positions_in_float64,
        **UPSTREAM,
    ),
    ObjectiveCase(
        name='output',
        kwargs=dict(net=VIT, **{**SMALL, 'projection_layers': 2}, hidden_layer=-1),
        inputs=views(2, 2),
        parameters=5_303,
        **UPSTREAM,
    ),
    ObjectiveCase(
        name='paper',
        kwargs=dict(net=VIT, **SMALL, projection_bottleneck=5, student_sees_global=True),
        inputs=views(2, 3),
        parameters=5_547,
        unused=('encoder/mlp_head/.*',),
        upstream_fails=TypeError,
        encoder='net',
        post_update='update_moving_average',
    ),
    ObjectiveCase(
        name='paper_map',
        kwargs=dict(net=CVT, **{**SMALL, 'image_size': 48}, student_sees_global=True, average_places=True),
        inputs=views(2, 3, 48, 32),
        # AdamW would divide gradients that BatchNorm leaves as rounding errors by their size
        optimizer='sgd',
        parameters=23_294,
        unused=('encoder/to_logits/.*',),
        upstream_fails=TypeError,
        encoder='net',
        post_update='update_moving_average',
    ),
]

REFUSED = [
    Refused(
        says="hidden_layer='to_latnt' is no submodule or tap of ViT: did you mean 'to_latent'",
        kwargs=dict(net=VIT, **SMALL, hidden_layer='to_latnt'),
        inputs=views(2, 2),
    ),
    Refused(
        says=r'hidden_layer=-3 must be -1 \(the output\), -2',
        kwargs=dict(net=VIT, **SMALL, hidden_layer=-3),
        inputs=views(2, 2),
    ),
    Refused(
        says='projection_layers=1 must be at least 2',
        kwargs=dict(net=VIT, **{**SMALL, 'projection_layers': 1}),
        inputs=views(2, 2),
    ),
    Refused(
        says='student_temp=0.0 must be above 0',
        kwargs=dict(net=VIT, **SMALL, student_temp=0.0),
        inputs=views(2, 2),
    ),
]

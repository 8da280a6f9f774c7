import numpy as np

from parity_tests.case import Refused
from parity_tests.objective_case import ObjectiveCase
from parity_tests.views import CVT, VIT, given_views, statistics_as_new, views

OBJECTIVE = 'EsViTTrainer'
SMALL = dict(net=CVT, image_size=48, projection_hidden_size=11, num_classes_K=13, projection_layers=3)
UPSTREAM = dict(
    encoder='net',
    post_update='update_moving_average',
    upstream_prepare=statistics_as_new,
    upstream_mend=given_views,
)
# AdamW would divide gradients that BatchNorm leaves as rounding errors by their size: all cases take SGD
HEAD = ('encoder/to_logits/.*',)

CASES = [
    ObjectiveCase(
        name='cvt',
        kwargs={**SMALL, 'student_temp': 0.3, 'moving_average_decay': 0.8, 'center_moving_average_decay': 0.7},
        inputs=views(2, 2, 48),
        draw=lambda rng: {'teacher_temp': np.asarray(rng.uniform(0.05, 0.5))},
        parameters=23_813,
        unused=HEAD,
        optimizer='sgd',
        **UPSTREAM,
    ),
    ObjectiveCase(
        name='paper',
        kwargs={
            **SMALL,
            'projection_bottleneck': 5,
            'student_sees_global': True,
            'scale_places': True,
            'cosine_matches': True,
        },
        inputs=views(2, 3, 48),
        optimizer='sgd',
        parameters=23_751,
        unused=HEAD,
        upstream_fails=TypeError,
        encoder='net',
        post_update='update_moving_average',
    ),
]

REFUSED = [
    Refused(
        says=r'hidden_layer=-2 gives \(8, 20\), and not a feature map',
        kwargs={**SMALL, 'net': VIT, 'image_size': 24},
        inputs=views(2, 2),
    ),
]

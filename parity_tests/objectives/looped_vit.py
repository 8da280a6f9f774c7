import numpy as np

from parity_tests.case import Refused, Submodule, image
from parity_tests.cases.looped_vit import GATE, SMALL
from parity_tests.objective_case import ObjectiveCase

OBJECTIVE = 'LoopedClassification'
# upstream has the model, its loss and its targets, but no class that adds them up
NOT_UPSTREAM = dict(upstream_fails=AttributeError)


def labels(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {'labels': rng.integers(7, size=2)}


CASES = [
    ObjectiveCase(
        name='gate',
        kwargs=dict(
            encoder=Submodule('models.looped_vit', 'LoopedViT', {**GATE, 'loop_depth': 3}),
            gate_weight=0.7,
            label_smoothing=0.1,
        ),
        inputs=image(2, 24, 36, 3),
        draw=labels,
        parameters=11_456,
        **NOT_UPSTREAM,
    ),
    ObjectiveCase(
        name='loops_alone',
        kwargs=dict(encoder=Submodule('models.looped_vit', 'LoopedViT', SMALL), weighting='exponential'),
        inputs=image(2, 24, 36, 3),
        draw=labels,
        parameters=14_839,
        optimizer='sgd',
        **NOT_UPSTREAM,
    ),
]

REFUSED = [
    Refused(
        says='weighting=.* must hold 2 weights',
        kwargs=dict(encoder=Submodule('models.looped_vit', 'LoopedViT', SMALL), weighting=(1.0, 2.0, 3.0)),
        inputs=image(2, 24, 36, 3),
        call=dict(labels=np.array([1, 2])),
    ),
]

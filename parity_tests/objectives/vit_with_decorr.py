import numpy as np

from parity_tests.case import Refused, Submodule, image
from parity_tests.cases.vit_with_decorr import SMALL, SUBSPACES
from parity_tests.objective_case import ObjectiveCase

OBJECTIVE = 'DecorrelatedClassification'
# upstream has the model and its loss, but no class that adds them up
NOT_UPSTREAM = dict(upstream_fails=AttributeError)


def labels(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {'labels': rng.integers(7, size=2)}


def labels_and_sample(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Of 4 branches, 2 images and 25 tokens, 7 each."""
    sampled = rng.permuted(np.broadcast_to(np.arange(25), (4, 2, 25)), axis=-1)[..., :7]
    return {**labels(rng), 'sampled_tokens': sampled}


CASES = [
    ObjectiveCase(
        name='all_tokens',
        kwargs=dict(encoder=Submodule('models.vit_with_decorr', 'ViT', SMALL), weight=0.3),
        inputs=image(2, 24, 36, 3),
        draw=labels,
        parameters=8_559,
        **NOT_UPSTREAM,
    ),
    ObjectiveCase(
        name='sampled_subspaces',
        kwargs=dict(
            encoder=Submodule('models.vit_with_decorr', 'ViT', {**SMALL, **SUBSPACES, 'decorr_sample_frac': 0.3}),
            weight=2.0,
        ),
        inputs=image(2, 24, 36, 3),
        draw=labels_and_sample,
        parameters=8_559,
        optimizer='sgd',
        **NOT_UPSTREAM,
    ),
]

REFUSED: list[Refused] = []

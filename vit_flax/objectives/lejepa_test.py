"""What the paper's preset of LeJEPA weighs, which upstream cannot be compared for."""

import jax
import numpy as np

from vit_flax.models.simple_vit import SimpleViT
from vit_flax.objectives.lejepa import LeJEPA

NET = SimpleViT(image_size=8, patch_size=4, num_classes=3, dim=8, depth=1, heads=2, mlp_dim=8)
VIEWS = [np.random.default_rng(count).normal(size=(count, 6, 8, 8, 3)) for count in (2, 3)]
PROJECTIONS = np.random.default_rng(0).normal(size=(5, 4))


def test_a_batch_twice_is_twice_as_far_from_normal_and_as_far_from_its_mean():
    """The published code multiplies the distance of the distributions by the number of vectors."""

    def losses(**weights):
        objective = LeJEPA.paper(NET, 8, num_classes_K=4, projection_hidden_size=8, **weights)

        @jax.jit
        def loss(*views):
            variables = objective.init(jax.random.key(0), *VIEWS, PROJECTIONS)
            return objective.apply(variables, *views, PROJECTIONS)

        return [float(loss(*(np.concatenate([view] * times, axis=1) for view in VIEWS))) for times in (1, 2)]

    once, twice = losses(target_loss_weight=0.0, sigreg_loss_weight=1.0)
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-5)
    assert once > 0.1
    once, twice = losses(target_loss_weight=1.0, sigreg_loss_weight=0.0)
    np.testing.assert_allclose(twice, once, rtol=1e-5)
    assert once > 0

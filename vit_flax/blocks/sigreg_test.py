import jax
import jax.numpy as jnp

from vit_flax.blocks.sigreg import draw_projections, sigreg_loss


def test_normal_vectors_cost_least():
    x = jax.random.normal(jax.random.key(0), (4, 500, 6))
    for projections in (draw_projections(jax.random.key(seed), 6, 64) for seed in (1, 2)):
        at_home = sigreg_loss(x, projections)
        assert 0 <= at_home < 1e-3
        for other in (x + 1, 3 * x, jnp.zeros_like(x), jnp.abs(x)):
            assert sigreg_loss(other, projections) > 20 * at_home


def test_directions_of_any_length():
    x, projections = jax.random.normal(jax.random.key(0), (20, 6)), draw_projections(jax.random.key(1), 6, 9)
    assert jnp.allclose(sigreg_loss(x, projections), sigreg_loss(x, 7 * projections))

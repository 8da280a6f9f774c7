"""Sketched isotropic Gaussian regularisation (SIGReg) of LeJEPA, arXiv:2511.08544."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vit_flax.blocks.averages import weighted_mean
from vit_flax.blocks.norms import unit_length
from vit_flax.blocks.precision import to_float32


def draw_projections(rng: Array, dim: int, num_slices: int = 1024) -> Array:
    """Random directions, `[s d]`; `sigreg_loss` brings them to length one."""
    return jax.random.normal(rng, (num_slices, dim))


def sigreg_loss(
    x: Array,
    projections: Array | np.ndarray,
    domain: tuple[float, float] = (-5, 5),
    num_knots: int = 17,
    weights: Array | None = None,
) -> Array:
    """Distance between the distribution of vectors along each direction and the standard normal, a scalar.

    The squared distance of the characteristic functions under a Gaussian window, by the trapezoidal rule.

    Args:
      x: `[... d]`.
      projections: directions `[s d]`, of any length.
      domain: first and last point at which the functions are compared.
      num_knots: number of points.
      weights: of the vectors, `[...]` as they are or for their last axis, such as 0 for padding; None weighs all alike.
    """
    x = to_float32(x)
    directions = unit_length(jnp.asarray(projections, x.dtype))
    knots = np.linspace(*domain, num_knots)
    gaussian = jnp.asarray(np.exp(-(knots**2) / 2), x.dtype)
    angles = (x @ directions.T)[..., None] * jnp.asarray(knots, x.dtype)
    of_each = None if weights is None else jnp.broadcast_to(weights, x.shape[:-1])
    # not merged first: one of them may be a batch that is split over devices
    axes = tuple(range(x.ndim - 1))
    real, imaginary = (weighted_mean(part(angles), of_each, axes) for part in (jnp.cos, jnp.sin))
    distance = (real - gaussian) ** 2 + imaginary**2
    return jnp.trapezoid(distance * gaussian, dx=knots[1] - knots[0]).mean()


def sigreg_statistic(x: Array, projections: Array | np.ndarray, num_knots: int = 17) -> Array:
    """The same as a test statistic, which grows with the number of vectors, a scalar.

    On half of the line, since both sides are alike, and for each set of vectors by itself.

    Args:
      x: sets of vectors `[... n d]`.
      projections: directions `[s d]`, of any length.
      num_knots: number of points from 0 to 3.
    """
    x = to_float32(x)
    directions = unit_length(jnp.asarray(projections, x.dtype))
    knots = np.linspace(0, 3, num_knots)
    gaussian = jnp.asarray(np.exp(-(knots**2) / 2), x.dtype)
    angles = (x @ directions.T)[..., None] * jnp.asarray(knots, x.dtype)
    distance = (jnp.cos(angles).mean(axis=-3) - gaussian) ** 2 + jnp.sin(angles).mean(axis=-3) ** 2
    return jnp.trapezoid(distance * gaussian, dx=knots[1]).mean() * 2 * x.shape[-2]

"""Every model starts as upstream's does: mean, spread and shape of each parameter's distribution."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict
from jax.extend.random import define_prng_impl

from parity_tests.bridge import example_inputs
from parity_tests.case import Case
from parity_tests.objective_case import ObjectiveCase
from parity_tests.upstream import upstream_module
from vit_flax.blocks.layer_scale import paper_layer_scale
from vit_flax.models.xcit import upstream_layer_scale
from vit_flax.weights.table import build_table

SEEDS = 24


def mixed(x: jax.Array, salt: int) -> jax.Array:
    """Words of 32 bits well stirred, by MurmurHash3's last steps."""
    x = x.astype(jnp.uint32) + jnp.uint32(salt)
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def random_bits(key: jax.Array, width: int, shape: tuple[int, ...]) -> jax.Array:
    count = mixed(jnp.arange(math.prod(shape)), 1)
    words = {32: jnp.uint32, 64: jnp.uint64}[width]
    low = mixed(count ^ key, 2).astype(words)
    return (low if width == 32 else low << 32 | mixed(count ^ key, 3).astype(words)).reshape(shape)


# For distributions any generator will do, and programs with this one compile several times faster: JAX's makes a loop
# for every parameter.
HASHED = define_prng_impl(
    key_shape=(1,),
    seed=lambda seed: mixed(seed, 4).reshape(1),
    split=lambda key, shape: mixed(key + mixed(jnp.arange(math.prod(shape)), 5), 6).reshape(*shape, 1),
    random_bits=random_bits,
    fold_in=lambda key, data: mixed(key ^ mixed(jnp.asarray(data), 7), 8),
    name='hashed',
    tag='hash',
)


def test_same_distribution_as_upstream(representative_case: Case):
    check_distribution(representative_case, representative_case.upstream_model)


def test_objective_starts_as_upstream(first_objective_case: ObjectiveCase):
    if not hasattr(upstream_module(first_objective_case.stem), first_objective_case.class_name):
        pytest.skip(
            "upstream has no such class: it is made here of upstream's pieces, which are tested with the models"
        )

    def upstream() -> torch.nn.Module:
        model = first_objective_case.upstream_model()
        if first_objective_case.upstream_prepare:
            first_objective_case.upstream_prepare(model)
        return model

    case = first_objective_case.at(0)
    check_distribution(case, upstream, **case.call, **case.options)


def check_distribution(case: Case, upstream: Callable[[], torch.nn.Module], **call: Any) -> None:
    """`call`: further arguments that the model is initialised with."""
    model, shapes = case.flax_model(), example_inputs(case)
    keys = jax.random.split(jax.random.key(0, impl=HASHED), SEEDS)
    zeros = [jnp.zeros(spec.shape, spec.dtype) for spec in shapes]
    variables = jax.jit(jax.vmap(lambda key: model.init(key, *zeros, **call)))(keys)
    ours = {path: np.asarray(leaf, np.float64) for path, leaf in flatten_dict(variables).items()}

    draws = []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        draws.append({name: value.numpy() for name, value in upstream().state_dict().items()})
    for entry in build_table(model, *shapes, **call).entries:
        mine = ours[entry.path].ravel()
        theirs = np.stack([entry.to_flax(draw) for draw in draws]).astype(np.float64).ravel()
        name = '/'.join(entry.path)
        spread, size = theirs.std(), theirs.size
        if spread == 0:
            np.testing.assert_allclose(mine, theirs, rtol=1e-6, err_msg=name)
            continue
        # six standard errors of a difference of two means, two deviations, two fourth moments
        assert abs(mine.mean() - theirs.mean()) <= 6 * spread * np.sqrt(2 / size), name
        assert abs(mine.std() - spread) <= 6 * spread * np.sqrt(1 / size), name
        tails = [np.mean(((x - x.mean()) / x.std()) ** 4) for x in (mine, theirs)]
        assert abs(tails[0] - tails[1]) <= 6 * np.sqrt(2 * 24 / size) + 0.1, name


@pytest.mark.parametrize('stem, ours', [('xcit', upstream_layer_scale), ('cait', paper_layer_scale)])
def test_layer_scale_follows_the_depth(stem: str, ours: Callable[[np.ndarray], jax.Array]):
    upstream = upstream_module(stem).LayerScale
    want = [upstream(3, torch.nn.Identity(), depth=layer + 1).scale.flatten()[0].item() for layer in range(30)]
    np.testing.assert_allclose(ours(np.arange(30)), want, rtol=1e-6)

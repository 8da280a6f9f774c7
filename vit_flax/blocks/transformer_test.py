"""What a trunk stores for the backward pass, by name, and that its gradients are the same."""

from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

from vit_flax.blocks.attention import Attention
from vit_flax.blocks.transformer import Block, FeedForward, Transformer

POLICIES = ('none', 'dots', 'block_inputs', 'full')


def trunk(remat) -> Any:
    block = partial(Block, partial(Attention, 2, 8), partial(FeedForward, 64))
    return Transformer(6, block, scan=True, remat=remat)


def test_each_policy_stores_less_than_the_one_before():
    tokens = jax.random.normal(jax.random.key(0), (8, 48, 16))
    variables = jax.jit(trunk('none').init)(jax.random.key(1), tokens)

    def run(remat):
        slope = jax.jit(jax.grad(lambda variables: (trunk(remat).apply(variables, tokens) ** 2).sum()))
        compiled = slope.lower(variables).compile()
        return compiled(variables), compiled.memory_analysis().temp_size_in_bytes

    gradients, memory = zip(*map(run, POLICIES), strict=True)
    assert sorted(memory, reverse=True) == [*memory] and len({*memory}) == len(POLICIES)
    for other in gradients[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), other, gradients[0])


@pytest.mark.parametrize('value, name', [(True, 'full'), (False, 'none')])
def test_a_bool_is_one_of_the_policies(value, name):
    tokens = jax.ShapeDtypeStruct((2, 3, 16), np.float32)
    variables = jax.eval_shape(trunk(value).init, jax.random.key(0), tokens)
    programs = [
        str(jax.make_jaxpr(jax.grad(lambda v, x, remat=remat: trunk(remat).apply(v, x).sum()))(variables, tokens))
        for remat in (value, name)
    ]
    assert programs[0] == programs[1]


def test_another_name_is_refused():
    with pytest.raises(ValueError, match=r"remat='half' must be .*'none', 'dots', 'block_inputs', 'full'"):
        trunk('half')

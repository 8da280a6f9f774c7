"""Derivatives in forward mode of every model, in the program for every platform."""

import jax
import jax.numpy as jnp
import pytest

from parity_tests.bridge import example_inputs
from parity_tests.case import Case
from parity_tests.specimen import specimen
from vit_flax.blocks.backend import compiling_for


@pytest.mark.parametrize('platform', ['cpu', 'gpu', 'tpu'])
def test_forward_mode(representative_case: Case, platform: str):
    """Traced, not computed: a derivative that is defined for reverse mode only, by `custom_vjp`, is refused there."""
    case = representative_case
    model, inputs = case.flax_model(), example_inputs(case)
    call = {**case.call, **case.options} | ({'train': False} if case.listed is None else {})
    # made here, where nothing is traced: it is kept for other tests
    variables = jax.eval_shape(lambda variables: variables, specimen(case).pair.variables)
    leaves, tree = jax.tree.flatten((variables, inputs))
    integers = [None if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf for leaf in leaves]
    floats = [leaf for leaf, integer in zip(leaves, integers, strict=True) if integer is None]

    def directional(floats, integers):
        def run(*floats):
            floats = iter(floats)
            merged = [next(floats) if integer is None else integer for integer in integers]
            variables, inputs = jax.tree.unflatten(tree, merged)
            return jax.tree.leaves(model.apply(variables, *inputs, **call))

        return jax.jvp(run, floats, floats)

    with compiling_for(platform):
        out, tangents = jax.eval_shape(directional, floats, integers)
    assert [leaf.shape for leaf in out] == [leaf.shape for leaf in tangents]

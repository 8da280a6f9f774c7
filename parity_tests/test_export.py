"""Programs of models that are read again and run."""

from functools import partial

import jax
import numpy as np
import pytest
from jax import export

from parity_tests.bridge import relative_error
from parity_tests.case import Case, first_cases
from parity_tests.specimen import specimen
from vit_flax.blocks.module import example_inputs
from vit_flax.cli.export import noise
from vit_flax.export import batched, flat, to_stablehlo
from vit_flax.models.vit import ViT

# plain, and with packed inputs
ALWAYS = 'vit', 'na_vit'


@pytest.mark.parametrize(
    'exported',
    [pytest.param(case, marks=[] if case.stem in ALWAYS else pytest.mark.exhaustive) for case in first_cases()],
    ids=lambda case: case.stem,
)
def test_a_program_read_again_is_the_model(exported: Case):
    """In float64, for two sizes of batch."""
    pair = specimen(exported).pair
    weights = {name: np.asarray(leaf) for name, leaf in flat(pair.variables).items()}
    # arrays that come with a batch of their own are left to the model's example
    own = exported.listed is None and not exported.call
    shapes = pair.inputs if own else example_inputs(pair.flax)
    written = to_stablehlo(pair.flax, pair.variables, *shapes).serialize(vjp_order=1)
    program = export.deserialize(bytearray(written))
    assert set(program.platforms) == {'cpu', 'cuda', 'tpu'}

    for batch in (1, 3):
        inputs = noise(batched(shapes, batch))
        got = jax.tree.leaves(program.call(weights, *inputs))
        want = jax.tree.leaves(jax.jit(pair.flax.apply)(pair.variables, *inputs))
        for mine, theirs in zip(got, want, strict=True):
            assert mine.shape == theirs.shape and relative_error(mine, theirs) <= 1e-9


def test_a_program_read_again_has_derivatives():
    model = ViT(image_size=8, patch_size=4, num_classes=3, dim=8, depth=1, heads=2, mlp_dim=12)
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3), 'float32')
    variables = model.init(jax.random.key(0), images)
    program = export.deserialize(bytearray(to_stablehlo(model, variables).serialize(vjp_order=1)))

    def loss(outputs, variables):
        return jax.grad(lambda variables: (outputs(variables) ** 2).sum())(variables)

    got = jax.jit(partial(loss, lambda variables: program.call(flat(variables), images)))(variables)
    want = jax.jit(partial(loss, lambda variables: model.apply(variables, images)))(variables)
    jax.tree.map(lambda mine, theirs: np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6), got, want)

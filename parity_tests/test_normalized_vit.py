"""nViT's `post_update` is upstream's `norm_weights_`."""

import jax
import numpy as np
import pytest

import vit_flax
from parity_tests.bridge import example_inputs, make_pair, relative_error
from parity_tests.case import all_cases


@pytest.mark.parametrize('scan', [False, True])
def test_post_update(scan):
    case = next(case for case in all_cases() if case.id == 'normalized_vit-eval')
    pair = make_pair(case, scan=scan)
    upstream = case.upstream_model().double()
    upstream.load_state_dict(pair.torch.state_dict())
    upstream.norm_weights_()
    updated = jax.jit(pair.flax.post_update)(pair.variables)
    state_dict = vit_flax.to_torch(pair.flax, updated, *example_inputs(case), source='vit_pytorch')
    changed = 0
    for name, want in upstream.state_dict().items():
        assert relative_error(state_dict[name], want.numpy()) <= 1e-12, name
        changed += not np.allclose(want.numpy(), pair.torch.state_dict()[name].numpy())
    assert changed == 3 + 7 * case.kwargs['depth']
    outputs = [pair.flax.apply(variables, *pair.inputs) for variables in (pair.variables, updated)]
    assert relative_error(*outputs) <= 1e-12

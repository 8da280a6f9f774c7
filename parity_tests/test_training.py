"""Two steps of training: the statistics of BatchNorm and the parameters they lead to are torch's."""

import jax
import numpy as np
import torch
from flax.traverse_util import flatten_dict

from parity_tests.bridge import make_pair, relative_error
from parity_tests.case import Case

RATE = 0.1


def test_two_steps_of_a_model_with_statistics(batch_norm_case: Case):
    pair = make_pair(batch_norm_case)
    cotangents = None

    for _ in range(2):
        result = pair.torch(*pair.torch_inputs(), **pair.case.torch_call())
        outputs = [leaf for leaf in jax.tree.leaves(result) if isinstance(leaf, torch.Tensor)]
        if cotangents is None:
            cotangents = pair.cotangents([output.detach().numpy() for output in outputs])
        pair.torch.zero_grad()
        torch.autograd.backward(outputs, [torch.from_numpy(array) for array in cotangents])
        with torch.no_grad():
            for parameter in pair.torch.parameters():
                if parameter.grad is not None:
                    parameter -= RATE * parameter.grad

    def forward(params, statistics):
        variables = {'params': params, 'batch_stats': statistics}
        output, new = pair.flax.apply(variables, *pair.inputs, mutable=['batch_stats'], **pair.call)
        return jax.tree.leaves(output), new['batch_stats']

    @jax.jit
    def step(params, statistics):
        _, pull_back, statistics = jax.vjp(lambda params: forward(params, statistics), params, has_aux=True)
        (gradients,) = pull_back(cotangents)
        return jax.tree.map(lambda p, g: p - RATE * g, params, gradients), statistics

    params, statistics = pair.variables['params'], pair.variables['batch_stats']
    for _ in range(2):
        params, statistics = step(params, statistics)

    want = {name: value.numpy() for name, value in pair.torch.state_dict().items()}
    got = flatten_dict({'params': params, 'batch_stats': statistics})
    before = flatten_dict(pair.variables)
    for entry in pair.table.entries:
        assert relative_error(got[entry.path], entry.to_flax(want)) <= 1e-9, '/'.join(entry.path)
    counts = [path for path in got if path[-1] == 'count']
    assert counts and all(int(got[path]) == int(np.asarray(before[path])) + 2 for path in counts)

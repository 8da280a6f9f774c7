"""What devices exchange, read from the compiled program: parameters and sums over the batch, never activations.

Equal results show nothing of it: a program that gathers whole batches in every layer computes the same. Here the batch
is so large that an activation of one device alone has more elements than any parameter.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from parity_tests.bridge import example_inputs
from parity_tests.case import Case, first_cases
from parity_tests.objective_case import ObjectiveCase, loss_and_rest
from train.config import Mesh
from train.sharding import ROWS, given_sharding, make_mesh, traced_for
from vit_flax import taps
from vit_flax.models.vit import ViT

BATCH = 2**14
FSDP = Mesh(fsdp=8, fsdp_min_size=200)

KINDS = 'all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute'
COLLECTIVE = re.compile(rf'= (.*?) ({KINDS})(?:-start)?\(.*?(?:op_name="([^"]*)".*)?$')

# XLA does not split a Fourier transform by its batch.
TRANSFORMED = {'simple_vit_with_fft': 'SimpleViT.embed/jit(fft)/fft', 'vaat': 'ast.spectrogram/jit(fft)/fft'}


@dataclass(frozen=True)
class Collective:
    """An array that devices exchange.

    Attributes:
      kind: such as all-gather.
      size: elements.
      operation: where in the model it was traced.
    """

    kind: str
    size: int
    operation: str


def collectives(program: str) -> Iterator[Collective]:
    """All in the text of a compiled program."""
    for line in program.splitlines():
        if found := COLLECTIVE.search(line):
            shapes, kind, operation = found.groups('')
            sizes = [
                math.prod(map(int, filter(None, shape.split(',')))) for shape in re.findall(r'\[([\d,]*)\]', shapes)
            ]
            # the parts that an all-to-all sends are one array, all else may be several arrays at once
            yield from (Collective(kind, size, operation) for size in ([sum(sizes)] if kind == 'all-to-all' else sizes))


def spread(tree: Any, mesh: jax.sharding.Mesh, rows: int, axes: Mapping[int, int] | None = None) -> Any:
    """Shapes of arguments with a large batch, which is split over the devices; what has none is whole on each.

    Args:
      tree: arrays or shapes for a batch of `rows`.
      mesh: from `make_mesh`.
      rows: length of the batch now.
      axes: of leaves by their number, where the batch is; elsewhere the first axis, if it has that length. Indices
        for all views of all images are as many more, and whole.
    """
    leaves, structure = jax.tree.flatten(tree)
    found = []
    for number, leaf in enumerate(leaves):
        shape = [*np.shape(leaf)]
        axis = (axes or {}).get(number, 0 if shape[:1] == [rows] else None)
        spec = PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, ROWS)
        if axis is not None:
            shape[axis] = BATCH
        elif np.issubdtype(leaf.dtype, np.integer) and shape and shape[0] % rows == 0:
            shape[0] *= BATCH // rows
        found.append(jax.ShapeDtypeStruct(tuple(shape), leaf.dtype, sharding=NamedSharding(mesh, spec)))
    return jax.tree.unflatten(structure, found)


def compiled(loss: Any, variables: Any, config: Mesh, *arguments: Any) -> tuple[list[Collective], list[int]]:
    """What the gradient of a loss exchanges, and the sizes of the parameters, of one layer where they are stacked."""
    mesh = make_mesh(config)
    shardings = given_sharding(variables, mesh, config)
    variables = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), variables, shardings)

    def gradient(variables: Any, *arguments: Any) -> Any:
        state = {name: tree for name, tree in variables.items() if name != 'params'}
        return jax.grad(lambda params: loss({**state, 'params': params}, *arguments))(variables['params'])

    step = jax.jit(traced_for(mesh, gradient, BATCH), out_shardings=shardings['params'])
    program = step.lower(variables, *arguments).compile().as_text()
    sizes = []
    for path, leaf in jax.tree.leaves_with_path(variables['params']):
        layers = jax.tree_util.keystr(path, simple=True, separator='/').split('/').count('block')
        sizes.append(math.prod(leaf.shape[layers:]))
    return [*collectives(program)], sizes


def of_model(case: Case, config: Mesh, **extra: Any) -> tuple[list[Collective], list[int]]:
    """The model of a case with any loss."""
    model, inputs = case.flax_model(**extra), example_inputs(case)
    keys = {name: jax.random.key(0) for name in ('params', 'dropout', 'drop_path', 'tokens', 'mask')}
    call = {**case.options, 'train': case.train}
    variables = jax.eval_shape(lambda *inputs: model.init(keys, *inputs, **case.call, **call), *inputs)

    def loss(variables: Any, inputs: Any, arrays: Any) -> jax.Array:
        statistics = ['batch_stats'] if case.train else False
        outputs = model.apply(variables, *inputs, **arrays, **call, rngs=keys, mutable=statistics)
        floating = [x for x in jax.tree.leaves(outputs) if jnp.issubdtype(x.dtype, jnp.floating)]
        return jnp.stack([jnp.square(x).mean() for x in floating]).sum()

    rows = jax.tree.leaves(inputs)[0].shape[0]
    arguments = (spread(tree, make_mesh(config), rows) for tree in (inputs, dict(case.call)))
    return compiled(loss, variables, config, *arguments)


def as_trained(case: Case) -> dict[str, bool]:
    """Arguments of a deep model."""
    return dict(scan=True, remat=True) if case.flax_model().takes('scan') else {}


def test_devices_exchange_parameters_and_no_activations(representative_case: Case):
    found, sizes = of_model(representative_case, FSDP, **as_trained(representative_case))
    known = TRANSFORMED.get(representative_case.stem, 'nothing')
    large = [one for one in found if one.size > max(sizes) and known not in one.operation]
    assert not large
    # once for the forward pass, once or twice for the backward pass; a body of a loop counts once
    gathered = sum(one.size for one in found if one.kind == 'all-gather' and known not in one.operation)
    assert 0 < gathered <= 3 * sum(sizes)


@pytest.mark.parametrize('stem', ['na_vit'])
def test_without_the_constraint_they_exchange_whole_batches(stem, monkeypatch):
    """What the test above would miss if it passed for another reason."""
    (case,) = (case for case in first_cases() if case.stem == stem)
    monkeypatch.setattr('train.sharding.split_by_batch', lambda *_: taps.watch())
    found, sizes = of_model(case, FSDP, **as_trained(case))
    assert max(one.size for one in found) > BATCH > max(sizes)


def test_views_of_an_image_stay_together(representative_objective: ObjectiveCase):
    """Objectives: views, masks and teachers move no batch either."""
    case = representative_objective.at(0)
    model, inputs = case.flax_model(), example_inputs(case)
    axes = {number: spec.layout.split().index('b') for number, spec in enumerate(case.inputs)}
    options = {**case.options, 'train': case.train}
    keys = {name: jax.random.key(0) for name in ('params', 'dropout', 'drop_path', 'tokens', 'mask')}
    variables = jax.eval_shape(lambda *inputs: model.init(keys, *inputs, **case.call, **options), *inputs)

    def loss(variables: Any, inputs: Any, arrays: Any) -> jax.Array:
        return loss_and_rest(model, variables, inputs, case, arrays)[0].mean()

    mesh, rows = make_mesh(FSDP), inputs[0].shape[axes[0]]
    found, sizes = compiled(loss, variables, FSDP, spread(inputs, mesh, rows, axes), spread(case.call, mesh, rows))
    # indices and, in upstream's order, projections of LeVJEPA are in another order than the views of each image
    large = [one for one in found if one.size > max(sizes)]
    assert not [one for one in large if not re.search(r'LeVJEPA\w*\)+/\w+$', one.operation)]


def test_tensor_parallelism_is_one_all_reduce_for_each_pair_of_products():
    """Of attention and of the feed-forward network, in the forward and in the backward pass."""
    depth, mesh = 2, Mesh(fsdp=2, tensor=4, fsdp_min_size=200)
    kwargs = dict(image_size=8, patch_size=4, num_classes=5, dim=24, depth=depth, heads=4, dim_head=6, mlp_dim=48)
    model, images = ViT(**kwargs), jax.ShapeDtypeStruct((1, 8, 8, 3), np.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    batch = spread(images, make_mesh(mesh), rows=1)
    found, sizes = compiled(lambda variables, x: model.apply(variables, x).sum(), variables, mesh, batch)
    tokens = BATCH // 2 * 5 * 24
    assert [(one.kind, one.size) for one in found if one.size > max(sizes)] == [('all-reduce', tokens)] * 4 * depth

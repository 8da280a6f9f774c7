"""What is frozen does not move: for every model that keeps statistics, scanned or not, and in objectives."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import InvalidRngError

from parity_tests.case import batch_norm_cases
from train.cli import parse
from train.config import Optim
from train.errors import UserError
from train.frozen import Frozen
from train.objectives.pretraining_test import command
from train.optim import optimizer, paths
from train.scale import Scale
from train.setup import set_up
from train.state import initial_state
from train.step import make_train_step
from vit_flax.models.vit import ViT

KEY = jax.random.key(0)


def itself(path):
    return path


def moved(model, variables, inputs, groups, **call):
    """Paths of the statistics that a call in training changes, found in the program, which nothing has to compile."""

    def apply(variables, *inputs):
        with Frozen(groups, variables['params'], itself).evaluated():
            rngs = {'dropout': KEY, 'drop_path': KEY, 'mask': KEY, 'tokens': KEY}
            _, state = model.apply(variables, *inputs, train=True, rngs=rngs, mutable=['batch_stats'], **call)
        return state['batch_stats']

    program, out = jax.make_jaxpr(apply, return_shape=True)(variables, *inputs)
    return {
        path
        for path, variable in zip(paths(out), program.jaxpr.outvars, strict=True)
        if variable not in program.jaxpr.invars
    }


@pytest.mark.parametrize('case', batch_norm_cases(), ids=lambda case: case.id)
def test_statistics_of_frozen_modules_stay(case):
    model = case.flax_model()
    inputs = [jax.ShapeDtypeStruct(each.shape, np.float32) for each in case.inputs]
    variables = jax.eval_shape(model.init, KEY, *inputs, **case.call)
    every = set(paths(variables['batch_stats']))
    assert moved(model, variables, inputs, [('.*', 'plain')], **case.call) == every
    # One parameter is left to train, of a module that keeps none.
    owners = {path.rpartition('/')[0] for path in every}
    free = [path for path in paths(variables['params']) if path.rpartition('/')[0] not in owners]
    last = max(free, key=lambda path: ('head' in path or 'logits' in path, path))
    assert not moved(model, variables, inputs, [(last, 'plain'), ('.*', 'frozen')], **case.call)
    # Half of a norm is trained: that norm and nothing else moves.
    norm = min(owners)
    groups = [(f'{norm}/bias', 'plain'), ('.*', 'frozen')]
    assert {path.rpartition('/')[0] for path in moved(model, variables, inputs, groups, **case.call)} == {norm}


@pytest.mark.parametrize('trunk', [{}, {'scan': True}, {'remat': True}, {'scan': True, 'remat': True}], ids=str)
def test_dropout_of_frozen_modules_is_off(trunk):
    model = ViT(image_size=8, patch_size=4, num_classes=3, dim=8, depth=2, heads=2, mlp_dim=8, dropout=0.5, **trunk)
    images = jnp.ones((2, 8, 8, 3))
    variables = jax.eval_shape(model.init, KEY, images)

    def asks_for_numbers(*groups):
        def apply(variables):
            with Frozen(groups, variables['params'], itself).evaluated():
                return model.apply(variables, images, train=True)

        try:
            jax.eval_shape(apply, variables)
        except InvalidRngError:
            return True
        return False

    rest = ('.*', 'plain')
    assert asks_for_numbers(rest) and asks_for_numbers(('transformer/.*/to_qkv/.*', 'frozen'), rest)
    assert not asks_for_numbers(('transformer/.*', 'frozen'), rest)


@pytest.mark.parametrize('recipe', ['esvit', 'mae'])
def test_a_frozen_encoder_stays_to_the_bit(recipe):
    """Its teacher and statistics too, while what the objective adds learns: read from the program of the step."""
    groups: Any = (('encoder/.*', 'frozen'), ('.*', 'plain'))
    config = parse(recipe, command(recipe, '--batch-size=8')[1:])[0]
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, groups=groups))
    setup = set_up(config)
    images = jax.ShapeDtypeStruct((8, 16, 16, 1), np.uint8)
    batch = {'image': images, 'label': jax.ShapeDtypeStruct((8,), np.int32)}
    step: Any = vars(setup.train_step)['__wrapped__']
    program, (after, _) = jax.make_jaxpr(step, return_shape=True)(setup.state, batch)
    read = dict(zip(paths(setup.state), program.jaxpr.invars, strict=False))
    written = dict(zip(paths(after), program.jaxpr.outvars, strict=False))
    changed = {path for path in written if path.startswith(('params', 'coll')) and written[path] is not read[path]}
    inside = {path for path in written if '/encoder/' in path or '/teacher/net/' in path}
    assert not changed & inside and len(inside) > 15
    assert any(path.startswith('params/') for path in changed)


def test_what_is_trained_learns_as_if_there_were_nothing_else():
    """The gradient is that of what is trained; the rest is a constant."""
    model = ViT(image_size=8, patch_size=4, num_classes=3, dim=8, depth=1, heads=2, mlp_dim=8)
    config = parse('digits', ['--augment.image-size=8'])[0]
    groups: Any = (('mlp_head/.*', 'plain'), ('.*', 'frozen'))
    config = dataclasses.replace(config, optim=Optim(groups=groups, warmup=0.0))
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    batch = {'image': images, 'label': np.array([0, 1, 2, 0], np.int32)}
    variables = jax.jit(model.init)(KEY, images)
    tx = optimizer(config.optim, 4, variables['params'])
    step = make_train_step(config.objective, model, tx, Scale((0.0,), (1.0,)), config)
    state, numbers = jax.jit(step)(initial_state(variables, tx, ema=False), batch)

    def loss(head):
        params = {**variables['params'], 'mlp_head': head}
        return config.objective.loss(model, {'params': params}, batch, KEY, True)[0]

    grads = jax.jit(jax.grad(loss))(variables['params']['mlp_head'])
    norm = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(grads)))
    np.testing.assert_allclose(numbers['grad_norm'], norm, rtol=1e-5)
    assert not np.array_equal(state.params['mlp_head']['bias'], variables['params']['mlp_head']['bias'])


def test_something_must_be_left_to_train():
    with pytest.raises(UserError, match=r'optim\.groups freezes every parameter'):
        optimizer(Optim(groups=(('.*', 'frozen'),)), 10, {'kernel': jnp.ones((2, 2))})

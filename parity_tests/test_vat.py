"""What a user of the action models meets beside the numbers: arguments in their forms, tasks, and frozen senses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parity_tests.cases.vat import EYE, ROBOT
from vit_flax.models.vat import VAT, ViT

IMAGES = np.random.default_rng(0).normal(size=(2, 12, 20, 3))
KWARGS = {name: value for name, value in ROBOT.items() if name not in ('vit', 'num_views', 'time_seq_len')}


@pytest.fixture(scope='module')
def robot():
    with jax.enable_x64(True):
        model = VAT(ViT(**EYE), **KWARGS)
        return model, jax.jit(model.init)(jax.random.key(0), IMAGES)


def act(model, variables, **call):
    return jax.jit(lambda variables: model.apply(variables, IMAGES, **call))(variables)


def test_vit_by_its_settings(robot):
    model, variables = robot
    same = VAT(EYE, **KWARGS)
    assert jax.tree.structure(jax.eval_shape(same.init, jax.random.key(0), IMAGES)) == jax.tree.structure(variables)
    np.testing.assert_array_equal(act(same, variables), act(model, variables))
    low = same.clone(dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    params = jax.eval_shape(low.init, jax.random.key(0), IMAGES)['params']
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}
    assert VAT(EYE, **KWARGS).example_input().shape == (1, 1, 1, 12, 20, 3)


def test_init_makes_what_may_be_given_later(robot):
    """No task and no state were given to `init`."""
    model, variables = robot
    given = dict(tasks=np.array([0, 5]), extra=np.ones((2, 9)), advantages=-1)
    assert act(model, variables, **given).shape == (2, 5, 4)
    one_for_all, each = (act(model, variables, advantages=kind) for kind in (2, np.array([2, 2])))
    np.testing.assert_array_equal(one_for_all, each)


def test_a_fresh_task_erases_the_tokens(robot):
    """All that tells one step of the actions from the next is gone, as upstream; not around one."""
    model, variables = robot
    erased = act(model, variables, tasks=np.array([0, 5]))
    np.testing.assert_allclose(erased, np.broadcast_to(erased[:, :1], erased.shape), atol=1e-12)
    usual = model.clone(film_around_one=True)
    np.testing.assert_allclose(act(usual, variables, tasks=np.array([0, 5])), act(usual, variables), atol=1e-12)


def test_unknown_task_is_not_a_number(robot):
    model, variables = robot
    actions = act(model, variables, tasks=np.array([0, 6]))
    assert np.isfinite(actions[0]).all() and np.isnan(actions[1]).all()
    assert np.isnan(act(model, variables, advantages=np.array([3, -2]))).all()


def test_frozen_vit_keeps_its_dropout(robot):
    """Frozen is what learns nothing; in training it drops tokens as ever."""
    model, variables = robot
    model = model.clone(vit=ViT(**{**EYE, 'emb_dropout': 0.5}))

    def loss(params, seed):
        rngs = {'dropout': jax.random.key(seed)}
        return model.apply({'params': params}, IMAGES, True, freeze_vit=True, actions=jnp.ones((2, 5, 4)), rngs=rngs)

    value = jax.jit(jax.value_and_grad(loss))
    (first, gradients), (second, _) = value(variables['params'], 0), value(variables['params'], 1)
    assert first != second
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradients['vit']))

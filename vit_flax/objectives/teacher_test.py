"""A teacher's variables: in collections of their own, without gradient, in float32 at least, and out again."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from vit_flax.blocks.module import Module
from vit_flax.blocks.torch_like import BatchNorm, Dense
from vit_flax.objectives.teacher import apply_teacher, copy_of_student, follow_student, teacher_variables, with_teacher

X = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
KEY = jax.random.key(0)


class Net(Module):
    def setup(self) -> None:
        self.dense = Dense(2, **self.precision)
        self.norm = BatchNorm(**self.precision)

    def __call__(self, x: Array, train: bool = False) -> Array:
        return self.norm(self.dense(x), train)


class Owner(Module):
    averaged: bool

    def setup(self) -> None:
        self.teacher = Net(**self.precision)

    def __call__(self, x: Array, train: bool = False) -> Any:
        dtype = self.param_dtype if self.averaged else None
        return apply_teacher(lambda teacher, x: teacher(x, train), self.teacher, x, dtype=dtype)


@pytest.mark.parametrize('averaged', [False, True])
def test_it_has_collections_of_its_own_and_no_gradient(averaged):
    owner: Any = Owner(averaged)
    variables = owner.init(KEY, X)
    assert sorted(variables) == ['teacher_batch_stats', 'teacher_params']
    slopes = jax.grad(lambda x, params: owner.apply({**variables, 'teacher_params': params}, x).sum(), argnums=(0, 1))(
        X, variables['teacher_params']
    )
    assert not any(leaf.any() for leaf in jax.tree.leaves(slopes))


def test_statistics_are_its_own_and_change_in_training_alone():
    owner = Owner(averaged=True)
    variables = owner.init(KEY, X)
    _, new = owner.apply(variables, X, train=True, mutable=['batch_stats', 'teacher_batch_stats'])
    _, want = Net().apply(teacher_variables(variables), X, train=True, mutable=['batch_stats'])
    jax.tree.map(np.testing.assert_array_equal, new['teacher_batch_stats']['teacher'], want['batch_stats'])
    _, same = owner.apply(variables, X, mutable=['batch_stats', 'teacher_batch_stats'])
    for collection, tree in same.items():
        jax.tree.map(np.testing.assert_array_equal, tree, variables[collection])


def test_an_average_is_kept_in_float32_and_used_in_16_bits():
    for averaged, stored in ((True, np.dtype(np.float32)), (False, np.dtype(jnp.bfloat16))):
        owner = Owner(averaged, param_dtype=jnp.bfloat16)
        variables = owner.init(KEY, X)
        assert {leaf.dtype for leaf in jax.tree.leaves(variables['teacher_params'])} == {stored}
        teacher = teacher_variables(variables)
        used = {**teacher, 'params': jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), teacher['params'])}
        want = Net(param_dtype=jnp.bfloat16).apply(used, X)
        np.testing.assert_array_equal(owner.apply(variables, X), want)


def test_it_comes_out_and_goes_in_again():
    variables = Owner(averaged=False).init(KEY, X)
    trained = jax.tree.map(lambda leaf: leaf + 1, teacher_variables(variables))
    changed = with_teacher(variables, trained)
    jax.tree.map(np.testing.assert_array_equal, teacher_variables(changed), trained)
    with pytest.raises(
        ValueError, match=r"has the collections \['params'\], the objective holds \['batch_stats', 'par"
    ):
        with_teacher(variables, {'params': trained['params']})


def test_it_follows_its_student_alone():
    params = {'encoder': {'kernel': jnp.ones(2)}, 'student': {'projector': {'bias': jnp.full(2, 3.0)}}}
    teachers: Any = {
        'teacher': {'net': {'kernel': jnp.zeros(2)}, 'projector': {'bias': jnp.ones(2)}},
        'other': {'kernel': jnp.zeros(2)},
    }
    assert copy_of_student(params, 'student').keys() == teachers['teacher'].keys()
    moved = follow_student({'params': params, 'teacher_params': teachers}, 'teacher', 'student', 0.75)
    np.testing.assert_array_equal(moved['teacher_params']['teacher']['net']['kernel'], [0.25, 0.25])
    np.testing.assert_array_equal(moved['teacher_params']['teacher']['projector']['bias'], [1.5, 1.5])
    assert moved['teacher_params']['other'] is teachers['other'] and moved['params'] is params


def test_variables_of_a_teacher_are_those_under_its_name():
    """Of several networks, and without other collections that have the name."""
    variables = {
        'teacher_params': {'teacher': {'a': 1}, 'other': {'b': 2}},
        'teacher_batch_stats': {'other': {'c': 3}},
        'centres': {'teacher': 4},
    }
    assert teacher_variables(variables) == {'params': {'a': 1}}
    assert teacher_variables(variables, 'other') == {'params': {'b': 2}, 'batch_stats': {'c': 3}}

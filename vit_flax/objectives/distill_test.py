from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_flax.models.simple_vit import SimpleViT
from vit_flax.objectives.distill import DistillableViT, DistillWrapper
from vit_flax.objectives.encoder import encoder_variables
from vit_flax.objectives.teacher import with_teacher

SMALL: Any = dict(image_size=12, patch_size=4, num_classes=5, dim=16, depth=1, heads=2, dim_head=8, mlp_dim=24)
IMAGES: Any = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype(np.float32)
LABELS: Any = np.array([3, 1])
KEY = jax.random.key(0)
TEACHER, STUDENT = SimpleViT(**{**SMALL, 'dim': 8}), DistillableViT(**SMALL)


@pytest.fixture(scope='module')
def trained_teacher():
    return jax.jit(TEACHER.init)(jax.random.key(1), IMAGES)


@pytest.fixture(scope='module')
def variables(trained_teacher):
    wrapper: Any = DistillWrapper(teacher=TEACHER, student=STUDENT)
    return with_teacher(jax.jit(wrapper.init)(KEY, IMAGES, LABELS), trained_teacher)


@pytest.mark.parametrize('hard', [False, True])
def test_any_function_of_the_images_is_a_teacher(variables, trained_teacher, hard):
    def answer(images) -> Any:
        return TEACHER.apply(trained_teacher, images)

    settings: Any = dict(student=STUDENT, hard=hard, temperature=2.0, alpha=0.7)
    alone = {'params': variables['params']}
    module: Any = DistillWrapper(teacher=TEACHER, **settings).apply(variables, IMAGES, LABELS)
    function: Any = DistillWrapper(teacher=answer, **settings).apply(alone, IMAGES, LABELS)
    elsewhere: Any = DistillWrapper(**settings).apply(alone, IMAGES, LABELS, teacher_logits=answer(IMAGES))
    np.testing.assert_allclose([function, elsewhere], [module, module], rtol=1e-6)


def test_the_teacher_is_not_trained(variables):
    wrapper: Any = DistillWrapper(teacher=TEACHER, student=STUDENT)
    assert sorted(variables) == ['params', 'teacher_params']
    assert sorted(variables['params']) == ['distill_mlp', 'distillation_token', 'encoder']
    slopes = jax.jit(jax.grad(lambda v: wrapper.apply(v, IMAGES, LABELS)))(variables)
    assert not any(leaf.any() for leaf in jax.tree.leaves(slopes['teacher_params']))
    assert all(leaf.any() for leaf in jax.tree.leaves(slopes['params']['distill_mlp']))


def test_settings_of_a_call_and_shares_as_labels(variables):
    wrapper: Any = DistillWrapper(teacher=TEACHER, student=STUDENT)
    fixed = wrapper.clone(temperature=3.0, alpha=0.2).apply(variables, IMAGES, LABELS)
    one_hot = jax.nn.one_hot(LABELS, 5)
    of_call = wrapper.apply(variables, IMAGES, one_hot, temperature=jnp.float32(3), alpha=jnp.float32(0.2))
    np.testing.assert_allclose(of_call, fixed, rtol=1e-6)


def test_the_student_comes_out_as_a_vit(variables):
    student = encoder_variables(variables)
    want = DistillWrapper(student=STUDENT).student.apply(student, IMAGES)
    np.testing.assert_array_equal(STUDENT.to_vit().apply(student, IMAGES), want)
    assert type(STUDENT.to_vit()).__name__ == 'ViT'


def test_dropout_is_off_in_evaluation_and_reaches_the_token_in_training(variables):
    noisy: Any = DistillWrapper(teacher=TEACHER, student=STUDENT.clone(emb_dropout=0.5))
    quiet: Any = DistillWrapper(teacher=TEACHER, student=STUDENT)
    run = jax.jit(
        lambda wrapper, train, rngs: wrapper.apply(variables, IMAGES, train=train, rngs=rngs, method='logits'),
        static_argnums=(0, 1),
    )
    np.testing.assert_array_equal(run(noisy, False, {})[0], run(quiet, False, {})[0])
    drawn = [run(noisy, True, {'dropout': jax.random.key(seed)})[1] for seed in (1, 2)]
    assert (drawn[0] != drawn[1]).any()


def test_paper():
    wrapper: Any = DistillWrapper.paper(TEACHER, STUDENT)
    assert wrapper.hard and wrapper.alpha == 0.5


def test_another_teacher_is_refused(variables):
    with pytest.raises(ValueError, match=r"has the collections \['batch_stats', 'params'\], the objective holds"):
        with_teacher(variables, {'params': {}, 'batch_stats': {}})

"""The step: pure in (state, batch), random in (seed, step), and open to objectives with a state of their own."""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from train.config import Config, Model, Optim
from train.data.stream import place, train_batches
from train.objectives.classification import Classification
from train.objectives.objective import Objective
from train.recipes.digits import CONFIG
from train.scale import Scale
from train.setup import set_up

TINY = dataclasses.replace(
    CONFIG,
    steps=4,
    batch_size=8,
    model=Model('vit', dict(patch_size=8, dim=16, depth=1, heads=2, dim_head=8, mlp_dim=16, dropout=0.5)),
)


def a_batch(config: Config, setup):
    records = config.data.records('train')
    (batch,) = train_batches(records, config.augment, seed=0, batch_size=8, steps=1, loader=config.loader)
    return place(batch, setup.mesh, 8)


def test_dropout_depends_on_seed_and_step_alone():
    setups = {seed: set_up(dataclasses.replace(TINY, seed=seed)) for seed in (0, 1)}
    state, batch = jax.device_get(setups[0].initial()), a_batch(TINY, setups[0])

    def loss(seed, step):
        return float(setups[seed].train_step(state.replace(step=np.int32(step)), batch)[1]['loss'])

    assert loss(0, 3) == loss(0, 3)
    assert len({loss(0, 3), loss(0, 4), loss(1, 3)}) == 3


def test_computing_in_bfloat16_keeps_parameters_and_loss_in_float32():
    config = dataclasses.replace(TINY, model=dataclasses.replace(TINY.model, dtype='bfloat16'))
    setup = set_up(config)
    assert setup.model.dtype == jnp.bfloat16
    state, numbers = setup.train_step(setup.initial(), a_batch(config, setup))
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype('float32')}
    assert numbers['loss'].dtype == jnp.float32 and np.isfinite(numbers['loss'])


def test_evaluation_uses_the_average_and_counts_only_what_counts():
    config = dataclasses.replace(TINY, optim=Optim(ema=0.9))
    setup = set_up(config)
    batch = a_batch(config, setup)
    state, _ = setup.train_step(setup.initial(), batch)
    assert state.evaluated['params'] is state.ema
    weight = jnp.arange(8) < 5
    sums, count = setup.eval_step(state, {**batch, 'weight': weight.astype(jnp.float32)})
    logits = jnp.asarray(setup.model.apply({'params': state.ema}, batch['image']))
    hits = (logits.argmax(-1) == batch['label'])[:5]
    losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), batch['label'][:, None], 1)[:5, 0]
    assert count == 5 and sums['accuracy'] == hits.sum()
    np.testing.assert_allclose(sums['loss'], losses.sum(), rtol=1e-5)


def test_label_smoothing_is_of_training_only():
    model = nn.Dense(3)
    batch = {'image': jnp.ones((2, 4)), 'label': jnp.array([0, 2])}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Dense, '__call__', lambda self, x, train=False: jnp.log(jnp.array([[0.7, 0.2, 0.1]] * 2)))
        smooth, plain = (
            Classification(label_smoothing=0.3).loss(model, {}, batch, jax.random.key(0), train)[0]
            for train in (True, False)
        )
    np.testing.assert_allclose(plain, -np.log([0.7, 0.1]).mean(), rtol=1e-5)
    each = -np.log([0.7, 0.2, 0.1])
    np.testing.assert_allclose(smooth, (0.7 * each[[0, 2]] + 0.3 * each.mean()).mean(), rtol=1e-5)


@dataclass(frozen=True)
class Centred(Objective):
    """An objective with a teacher's centre in a collection, and a rule after each update."""

    def init(self, model, rng, batch):
        return {
            **model.init(rng, batch['image']),
            'centre': {'mean': jnp.zeros(10)},
            'count': {'updates': jnp.int32(0)},
        }

    def loss(self, model, variables, batch, rng, train, progress=0.0):
        logits = model.apply({'params': variables['params']}, batch['image'])
        losses = ((logits - variables['centre']['mean']) ** 2).mean(-1)
        state = {'centre': {'mean': logits.mean(0)}, 'count': variables['count']}
        return losses.mean(), ({'loss': losses}, state)

    def post_update(self, model, variables, progress=0.0):
        params = {**variables['params'], 'mlp_head': jax.tree.map(jnp.zeros_like, variables['params']['mlp_head'])}
        return {**variables, 'params': params, 'count': {'updates': variables['count']['updates'] + 1}}


def test_an_objective_can_have_a_state_and_act_after_the_update():
    config = dataclasses.replace(TINY, objective=Centred())
    setup = set_up(config)
    state, batch = setup.initial(), a_batch(config, setup)
    logits = jnp.asarray(setup.model.apply({'params': state.params}, batch['image']))
    state, _ = setup.train_step(state, batch)
    np.testing.assert_allclose(state.collections['centre']['mean'], logits.mean(0), rtol=1e-4, atol=1e-6)
    assert state.collections['count']['updates'] == 1
    assert not any(leaf.any() for leaf in jax.tree.leaves(state.params['mlp_head']))


@pytest.mark.parametrize('mixup', [0.0, 0.8], ids=['plain', 'mixup'])
def test_a_batch_in_parts_is_the_whole_batch(mixup):
    """Mixing included: it happens before the batch is split."""
    args = {**TINY.model.args, 'dropout': 0.0}
    config = dataclasses.replace(
        TINY,
        batch_size=32,
        model=dataclasses.replace(TINY.model, args=args),
        objective=Classification(mixup=mixup),
        optim=Optim(name='sgd', warmup=0.0, learning_rate=0.5),
    )
    records = config.data.records('train')
    ends = []
    for parts in (1, 4):
        parted = dataclasses.replace(config, optim=dataclasses.replace(config.optim, accumulate=parts))
        setup = set_up(parted)
        state, numbers = setup.initial(), []
        for batch in train_batches(records, config.augment, seed=0, batch_size=32, steps=3, loader=config.loader):
            state, of_step = setup.train_step(state, place(batch, setup.mesh, 32))
            numbers.append(jax.device_get(of_step))
        ends.append((jax.device_get(state.params), numbers))
    (whole, of_whole), (in_parts, of_parts) = ends
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), in_parts, whole)
    for a, b in zip(of_parts, of_whole, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-4, err_msg=name)


def test_bytes_become_numbers_around_zero():
    scale = Scale((0.5, 0.25), (0.5, 0.25))
    images = np.array([[[[0, 0], [255, 255]]]], np.uint8)
    batch = scale({'image': images, 'label': np.array([3], np.int32)})
    np.testing.assert_allclose(batch['image'][0, 0], [[-1, -1], [1, 3]], atol=1e-6)
    assert batch['label'].dtype == np.int32
    floats = {'image': images.astype(np.float32)}
    assert scale(floats)['image'] is floats['image'], "somebody's own numbers"

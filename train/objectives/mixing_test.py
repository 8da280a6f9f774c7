"""Mixup and cutmix: shares and pixels agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.objectives.classification import Classification
from train.objectives.mixing import mix, neighbour

# Each image is of one number, so that shares can be read from pixels.
LEVELS = jnp.arange(64.0)
IMAGES = jnp.broadcast_to(LEVELS[:, None, None, None], (64, 12, 10, 3))


@pytest.mark.parametrize('mixup, cutmix', [(0.4, 0.0), (0.0, 1.0), (0.8, 1.0)], ids=['mixup', 'cutmix', 'both'])
def test_the_share_is_what_is_left_of_the_image(mixup, cutmix):
    mixed, share = mix(IMAGES, jax.random.key(0), mixup, cutmix, 1.0)
    expected = share * LEVELS + (1 - share) * neighbour(LEVELS)
    np.testing.assert_allclose(mixed.mean((1, 2, 3)), expected, atol=1e-4)
    assert share.min() >= 0 and share.max() <= 1 and len(np.unique(share)) > 20
    assert 0.2 < share.mean() < 0.8


def test_cutmix_pastes_a_box_and_mixup_blends():
    pasted, share = mix(IMAGES, jax.random.key(1), 0.0, 1.0, 1.0)
    own = jnp.equal(pasted, IMAGES)
    assert (jnp.equal(pasted, neighbour(IMAGES)) | own).all()
    # A box: what is pasted is a product of rows and columns.
    other = np.asarray(jnp.not_equal(pasted, IMAGES))[..., 0]
    rows, columns = other.max(2), other.max(1)
    np.testing.assert_array_equal(other, rows[:, :, None] & columns[:, None, :])
    blended, _ = mix(IMAGES, jax.random.key(1), 0.4, 0.0, 1.0)
    assert np.ptp(blended, axis=(1, 2, 3)).max() < 1e-4
    assert share.std() > 0.1


def test_both_ways_are_taken_and_some_images_are_left_alone():
    mixed, share = mix(IMAGES, jax.random.key(2), 0.4, 1.0, 0.5)
    alone = np.asarray(share == 1)
    np.testing.assert_array_equal(mixed[alone], IMAGES[alone])
    blended = np.ptp(np.asarray(mixed), axis=(1, 2, 3)) < 1e-4
    assert 15 < alone.sum() < 50
    assert 5 < (blended & ~alone).sum() < 30 and 5 < (~blended).sum() < 30
    untouched, share = mix(IMAGES, jax.random.key(3), 0.4, 1.0, 0.0)
    np.testing.assert_array_equal(untouched, IMAGES)
    assert (share == 1).all()


class Fixed:
    """In the place of a network."""

    def __init__(self, logits=None):
        self.logits = logits

    def apply(self, variables, images, train=False, rngs=None, mutable=()):
        return self.logits, {}


def test_the_loss_is_that_of_both_labels():
    objective = Classification(label_smoothing=0.0, mixup=0.3)
    batch = {'image': IMAGES[:4], 'label': jnp.array([0, 1, 2, 1])}
    batch = objective.prepare(Fixed(), batch, jax.random.key(0), dict, True)  # type: ignore[arg-type,assignment]
    logits = jnp.log(jnp.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.2, 0.5, 0.3], [0.8, 0.1, 0.1]]))

    loss, (metrics, _) = objective.loss(Fixed(logits), {'params': {}}, batch, jax.random.key(0), train=True)
    share = np.asarray(batch['share'])
    rows = np.arange(4)
    own, others = (-np.asarray(logits)[rows, labels] for labels in ([0, 1, 2, 1], [1, 0, 1, 2]))
    np.testing.assert_allclose(metrics['loss'], share * own + (1 - share) * others, rtol=1e-5)
    np.testing.assert_allclose(loss, metrics['loss'].mean(), rtol=1e-6)


def test_nothing_is_mixed_unless_asked_for():
    batch = {'image': IMAGES, 'label': jnp.zeros(64, jnp.int32)}
    for objective, train in ((Classification(), True), (Classification(mixup=0.5), False)):
        assert objective.prepare(Fixed(), batch, jax.random.key(0), lambda batch: batch, train) is batch  # type: ignore[arg-type]

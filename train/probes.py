"""What features know of labels that they were not trained on: weighted k-NN and a linear probe."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from train.sources.source import Record, Some

# Of DINO's evaluation (arXiv:2104.14294).
NEIGHBOURS, TEMPERATURE = 20, 0.07
# The linear probe stops when its gradient is this small, or after this many steps.
TOLERANCE, STEPS = 1e-4, 300
# Rows of similarities that are held at a time.
CHUNK = 1000


@dataclass(frozen=True)
class Features:
    """Of one split: `features` float32 `[n d]`, `labels` int `[n]`."""

    features: np.ndarray
    labels: np.ndarray


def chosen(records: Sequence[Record], images: int) -> Sequence[Record]:
    """So many of the records at most, always the same ones, from everywhere."""
    if len(records) <= images:
        return records
    return Some(records, np.sort(np.random.default_rng(0).permutation(len(records))[:images]).tolist())


def probe(train: Features, held_out: Features, classes: int) -> dict[str, float]:
    """Accuracies of both probes, learned from one split and measured on the other, and the spread of the features.

    `feature_std` is the deviation of the features' directions: 1 if they point everywhere, 0 if all are the same.
    """
    directions = _directions(held_out.features)
    return {
        'knn_accuracy': float((knn(train, held_out.features, classes) == held_out.labels).mean()),
        'linear_accuracy': float((linear(train, held_out.features, classes) == held_out.labels).mean()),
        'feature_std': float((directions.std(axis=0) * directions.shape[1] ** 0.5).mean()),
    }


def knn(train: Features, features: np.ndarray, classes: int, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """The class that the nearest training images vote for, int `[n]`.

    By cosine similarity s, each vote weighing exp(s / 0.07), as in arXiv:1805.01978 and DINO.

    Args:
      train: what is known.
      features: of the images to classify, `[n d]`.
      classes: how many there are.
      neighbours: that vote; all, if there are fewer.
    """
    known = _directions(train.features)
    neighbours = min(neighbours, len(known))
    said = []
    for start in range(0, len(features), CHUNK):
        similar = _directions(features[start : start + CHUNK]) @ known.T
        nearest = np.argpartition(-similar, neighbours - 1, axis=1)[:, :neighbours]
        weights = np.exp(np.take_along_axis(similar, nearest, 1) / TEMPERATURE)
        votes = np.zeros((len(similar), classes))
        np.add.at(votes, (np.arange(len(similar))[:, None], train.labels[nearest]), weights)
        said.append(votes.argmax(axis=1))
    return np.concatenate(said)


def linear(train: Features, features: np.ndarray, classes: int) -> np.ndarray:
    """The class that multinomial logistic regression on standardised features takes for likeliest, int `[n]`.

    With a penalty of half the squared weights over the number of images, scikit-learn's default; by L-BFGS.
    """
    mean, std = train.features.mean(axis=0), train.features.std(axis=0)
    scale = np.where(std > 1e-6, std, 1.0)
    weights, bias = _fitted((train.features - mean) / scale, train.labels, classes)
    return np.asarray(((features - mean) / scale) @ weights + bias).argmax(axis=1)


@partial(jax.jit, static_argnums=2)
def _fitted(x, labels, classes: int):
    x = jnp.asarray(x, jnp.float32)
    solver = optax.lbfgs()
    params = jnp.zeros((x.shape[1], classes)), jnp.zeros(classes)

    def loss(params):
        weights, bias = params
        losses = optax.softmax_cross_entropy_with_integer_labels(x @ weights + bias, labels)
        return losses.mean() + (weights**2).sum() / (2 * len(x))

    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry):
        params, state, count = carry
        value, grad = value_and_grad(params, state=state)
        updates, state = solver.update(grad, state, params, value=value, grad=grad, value_fn=loss)
        return optax.apply_updates(params, updates), state, count + 1

    def unfinished(carry):
        _, state, count = carry
        slope = optax.tree.norm(optax.tree.get(state, 'grad'), ord=jnp.inf)
        return (count == 0) | ((count < STEPS) & (slope > TOLERANCE))

    return jax.lax.while_loop(unfinished, step, (params, solver.init(params), 0))[0]


def _directions(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)

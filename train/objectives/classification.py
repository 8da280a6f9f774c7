"""Softmax cross-entropy with label smoothing (arXiv:1512.00567), mixup and cutmix."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import Array

from train.errors import UserError
from train.objectives.mixing import mix, neighbour
from train.objectives.objective import RNGS, Batch, Objective, Scaled, Variables
from vit_flax.blocks.precision import to_float32


@dataclass(frozen=True)
class Classification(Objective):
    """Logits to labels."""

    label_smoothing: float = 0.1
    """Probability that is spread over all classes, in training only."""
    mixup: float = 0.0
    """Parameter of the beta distribution of mixup's (arXiv:1710.09412) mixing coefficients; 0 turns mixup off."""
    cutmix: float = 0.0
    """The same for cutmix (arXiv:1905.04899). With both on, each image takes either with equal probability."""
    mix_probability: float = 1.0
    """Probability that an image is mixed at all."""

    classifies = True

    @property
    def watch(self) -> str:
        return 'accuracy'

    @property
    def best(self) -> str:
        return 'max'

    def check(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f'objective.label_smoothing={self.label_smoothing} must be at least 0 and below 1')
        for name in ('mixup', 'cutmix'):
            if not 0 <= getattr(self, name) <= 100:
                raise UserError(f'objective.{name}={getattr(self, name)} must lie between 0 and 100')
        if not 0 <= self.mix_probability <= 1:
            raise UserError(f'objective.mix_probability={self.mix_probability} must lie between 0 and 1')

    def init(self, module: Any, rng: Array, batch: Batch) -> Variables:
        return module.init(rng, batch['image'])

    def prepare(self, model: nn.Module, batch: Batch, rng: Array, scale: Scaled, train: bool) -> Batch:
        batch = scale(batch)
        if not train or not (self.mixup or self.cutmix):
            return batch
        images, share = mix(batch['image'], rng, self.mixup, self.cutmix, self.mix_probability)
        return {**batch, 'image': images, 'other_label': neighbour(batch['label']), 'share': share}

    def targets(self, batch: Batch, classes: int) -> Array:
        """Target probabilities, `[b classes]`."""
        targets = jax.nn.one_hot(batch['label'], classes)
        if 'share' in batch:
            share = batch['share'][:, None]
            targets = share * targets + (1 - share) * jax.nn.one_hot(batch['other_label'], classes)
        return optax.smooth_labels(targets, self.label_smoothing)

    def loss(
        self,
        module: Any,
        variables: Variables,
        batch: Batch,
        rng: Array,
        train: bool,
        progress: Array | float = 0.0,
    ) -> tuple[Array, tuple[dict[str, Array], Variables]]:
        state: Variables = {name: value for name, value in variables.items() if name != 'params'}
        if train:
            rngs = {name: jax.random.fold_in(rng, i) for i, name in enumerate(RNGS)}
            logits, state = module.apply(variables, batch['image'], train=True, rngs=rngs, mutable=list(state))
        else:
            logits = module.apply(variables, batch['image'])
        logits = to_float32(logits)
        targets = self.targets(batch, logits.shape[-1]) if train else jax.nn.one_hot(batch['label'], logits.shape[-1])
        losses = optax.softmax_cross_entropy(logits, targets)
        hits = (logits.argmax(-1) == batch['label']).astype(jnp.float32)
        return losses.mean(), ({'loss': losses, 'accuracy': hits}, state)

    def logits(self, model: nn.Module, variables: Variables, images: Array) -> Array:
        logits: Any = model.apply(variables, images)
        return to_float32(logits)

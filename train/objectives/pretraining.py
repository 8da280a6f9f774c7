"""What all objectives share that learn from images without their labels: one of `vit_flax.objectives` around the model.

Draws (masks, views) are made when a batch is prepared, for the whole batch; what the objective keeps beside the
parameters (teachers, centres) is part of the state. Probes tell from time to time what the features know of the labels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from train.errors import UserError
from train.objectives.objective import RNGS, Batch, Objective, Reconstruct, Scaled, Variables
from vit_flax.objectives.encoder import check_encoder, encoder_variables
from vit_flax.objectives.monitors import MONITORS

# Below this the features of all images point in the same direction; of a new ViT they have a few hundredths.
COLLAPSED = 0.003


@dataclass(frozen=True)
class Pretraining(Objective):
    """An objective of `vit_flax.objectives` with the model as its encoder."""

    probe_images: int = 10000
    """Training images, and held-out ones, at most, whose features k-NN and a linear probe are given at each look at the
    held-out data; 0 leaves both out, and the best checkpoint is then that of the lowest loss."""

    inside = 'encoder/'

    @property
    def watch(self) -> str:
        return 'knn_accuracy' if self.probe_images else 'loss'

    @property
    def best(self) -> str:
        return 'max' if self.probe_images else 'min'

    @property
    def probed(self) -> int:
        return self.probe_images

    def check(self) -> None:
        if self.probe_images < 0:
            raise UserError(f'objective.probe_images={self.probe_images} must be at least 0')

    def module(self, model: nn.Module, scale: Scaled | None) -> Any:
        """The objective around the model; without a scale where nothing but its variables matters."""
        raise NotImplementedError

    def draws(self, module: Any, images: Array, rng: Array, scale: Scaled) -> dict[str, Array]:
        """What is drawn for a batch of stored images, leaves `[b ...]`."""
        raise NotImplementedError

    def inputs(self, module: Any, draws: Mapping[str, Array], rng: Array, progress: Array | float) -> dict[str, Any]:
        """Keyword arguments of the objective's call, from what was drawn."""
        del module, rng, progress
        return dict(draws)

    def prepare(self, model: nn.Module, batch: Batch, rng: Array, scale: Scaled, train: bool) -> Batch:
        del train
        others = {name: rows for name, rows in batch.items() if name != 'image'}
        draws = self.draws(self.module(model, scale), batch['image'], rng, scale)
        return {**others, 'draws': draws, 'scale': scale}

    def loss(
        self,
        model: nn.Module,
        variables: Variables,
        batch: Batch,
        rng: Array,
        train: bool,
        progress: Array | float = 0.0,
    ) -> tuple[Array, tuple[dict[str, Array], Variables]]:
        module = self.module(model, batch['scale'])
        collections = {name: tree for name, tree in variables.items() if name != 'params'}
        inputs = self.inputs(module, batch['draws'], jax.random.fold_in(rng, len(RNGS)), progress)
        rngs = {name: jax.random.fold_in(rng, i) for i, name in enumerate(RNGS)}
        # Held-out data move no centre and no statistics.
        mutable = [*collections, MONITORS] if train else [MONITORS]
        loss, state = module.apply(variables, **inputs, train=train, rngs=rngs, mutable=mutable)
        seen = {'loss': loss, **state.pop(MONITORS, {})}
        ones = jnp.ones(len(batch['label']), jnp.float32)
        return loss, ({name: ones * value for name, value in seen.items()}, {**collections, **state})

    def post_update(self, model: nn.Module, variables: Variables, progress: Array | float = 0.0) -> Variables:
        del progress
        if not hasattr(model, 'post_update'):
            return variables
        return _with_encoder(variables, model.post_update(encoder_variables(variables)))

    def network(self, variables: Variables) -> Variables:
        return encoder_variables(variables)

    def with_network(self, variables: Variables, network: Variables) -> Variables:
        return _with_encoder(variables, network)

    def warning(self, numbers: Mapping[str, float]) -> str:
        spread = numbers.get('val/feature_std', 1.0)
        if spread >= COLLAPSED:
            return ''
        return (
            f'the features have collapsed: those of different images point in nearly the same direction (feature_std '
            f'{spread:.4f}, where 1 is an even spread); try a lower optim.learning_rate'
        )


def unit_interval(images: Array) -> Array:
    """Stored images `[b h w c]` as numbers from 0 to 1.

    Raises:
      UserError: they are no bytes, and in what scale they are is not known.
    """
    if images.dtype != jnp.uint8:
        raise UserError(f'this objective changes or tells colours: it needs images of bytes, these are {images.dtype}')
    return images.astype(jnp.float32) / 255


def _with_encoder(variables: Variables, encoder: Variables) -> dict[str, Any]:
    changed = {name: {**variables[name], 'encoder': tree} for name, tree in encoder.items()}
    return {**variables, **changed}


@dataclass(frozen=True)
class MaskedImages(Pretraining):
    """What hides patches of an image and predicts them, called with images and masks."""

    def init(self, model: nn.Module, rng: Array, batch: Batch) -> Variables:
        check_encoder(model)
        module, images = self.module(model, None), batch['image']
        return module.init(rng, images, **module.draw(rng, images))

    def draws(self, module: Any, images: Array, rng: Array, scale: Scaled) -> dict[str, Array]:
        images = scale({'image': images})['image']
        return {'images': images, **module.draw(rng, images)}

    def pictures(self, model: nn.Module, scale: Scaled) -> Reconstruct | None:
        module = self.module(model, scale)

        def complete(variables: Variables, images: Array, rng: Array) -> tuple[Array, Array]:
            draws = module.draw(rng, images)
            hidden = jnp.zeros((len(images), model.grid.num_patches), bool)
            hidden = hidden.at[jnp.arange(len(images))[:, None], draws['masked']].set(True)
            patches = model.grid.patchify(images)
            masked = model.grid.unpatchify(jnp.where(hidden[..., None], jnp.nan, patches), module.grid_of(images))
            return masked, module.apply(variables, images, **draws, method='reconstruct')

        return complete

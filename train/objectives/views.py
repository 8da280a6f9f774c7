"""What objectives of several views of an image share: random crops and colours of it, drawn on the device."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from train.errors import UserError
from train.objectives.objective import Batch, Scaled, Variables
from train.objectives.pretraining import Pretraining, unit_interval
from vit_flax.blocks.checks import pair

VIEWS = ('global_views', 'local_views')


@dataclass(frozen=True)
class Views(Pretraining):
    """Two large crops of each image and some small ones, each with colours of its own."""

    local_views: int = 8
    """Small crops of each image; there are two large ones."""
    local_size: int = 0
    """Pixels along each side of the small crops, for networks that take several sizes; 0 makes them as large as the
    large ones."""
    global_scale: float = 0.4
    """Smallest part of the image's area in a large crop; the largest is all of it."""
    local_scale: float = 0.4
    """Largest part of the image's area in a small crop; the smallest is 0.05."""
    hidden_layer: str = ''
    """Submodule or tap of the network whose output is compared, such as transformer/block_3. By default what the head
    takes, which every network with one head for one image shows under the name to_latent."""

    def check(self) -> None:
        super().check()
        if self.local_views < 1:
            raise UserError(f'objective.local_views={self.local_views} must be at least 1')
        if self.local_size < 0:
            raise UserError(f'objective.local_size={self.local_size} must be at least 0')
        if not 0 < self.global_scale <= 1:
            raise UserError(f'objective.global_scale={self.global_scale} must be above 0 and up to 1')
        if not 0.05 <= self.local_scale <= 1:
            raise UserError(f'objective.local_scale={self.local_scale} must lie between 0.05 and 1')

    def views(self) -> dict[str, Any]:
        """The arguments of the objective that say what views there are."""
        return {
            **({'hidden_layer': self.hidden_layer} if self.hidden_layer else {}),
            'num_local_views': self.local_views,
            'local_size': self.local_size or None,
            'global_lower_crop_scale': self.global_scale,
            'local_upper_crop_scale': self.local_scale,
        }

    def draws(self, module: Any, images: Array, rng: Array, scale: Scaled) -> dict[str, Array]:
        drawn = module.clone(image_size=images.shape[-3:-1]).draw(rng, unit_interval(images))
        return {name: jnp.swapaxes(scale.views(drawn[name]), 0, 1) for name in VIEWS}

    def inputs(self, module: Any, draws: Mapping[str, Array], rng: Array, progress: Array | float) -> dict[str, Any]:
        return {name: jnp.swapaxes(draws[name], 0, 1) for name in VIEWS}

    def init(self, model: nn.Module, rng: Array, batch: Batch) -> Variables:
        module, image = self.module(model, None), batch['image']
        if image.ndim != 4:
            raise ValueError(f'views are cropped from images [b h w c], and not from {image.shape}')
        small = pair(self.local_size) if self.local_size else image.shape[1:3]
        channels = image.shape[3:]
        draws = {
            'global_views': jnp.zeros((1, 2, *image.shape[1:])),
            'local_views': jnp.zeros((1, self.local_views, *small, *channels)),
        }
        return module.init(rng, **self.inputs(module, draws, rng, 0.0))

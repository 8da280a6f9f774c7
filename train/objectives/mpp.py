"""Masked patch prediction (appendix B.1.2 of arXiv:2010.11929): the mean colour of patches that were replaced."""

from typing import Any

from flax import linen as nn
from jax import Array

from train.objectives.objective import Scaled
from train.objectives.options import trains
from train.objectives.pretraining import Pretraining, unit_interval
from vit_flax.objectives.mpp import MPP


@trains(
    MPP,
    names={'output_channel_bits': 'channel_bits'},
    without=('patch_size', 'dim', 'channels', 'max_pixel_val', 'mean', 'std'),
)
class Mpp(Pretraining):
    """Cross-entropy of the mean colour of corrupted patches, as one of a few hundred classes."""

    reconstructs = True

    def derived(self, model: nn.Module, scale: Scaled | None) -> dict[str, Any]:
        if scale is None:
            return {}
        channels = getattr(model, 'channels', 3)
        mean, std = (tuple(each) * channels if len(each) == 1 else tuple(each) for each in (scale.mean, scale.std))
        return {'mean': mean, 'std': std}

    def draw(self, module: Any, images: Array, rng: Array, scale: Scaled) -> dict[str, Array]:
        unit_interval(images)  # classes of colours need a known scale
        return super().draw(module, images, rng, scale)

"""Masked patch prediction (appendix B.1.2 of arXiv:2010.11929): the mean colour of patches that were replaced."""

from dataclasses import dataclass
from typing import Any

from flax import linen as nn
from jax import Array

from train.errors import UserError
from train.objectives.objective import Scaled
from train.objectives.pretraining import MaskedImages, unit_interval
from vit_flax.objectives.mpp import MPP


@dataclass(frozen=True)
class Mpp(MaskedImages):
    """The mean colour of corrupted patches, as one of a few hundred classes."""

    mask_prob: float = 0.5
    """Share of the patches whose colour is asked for."""
    replace_prob: float = 0.8
    """Share of these that are replaced by a learned token."""
    random_patch_prob: float = 0.1
    """Share of these that are replaced by another patch of the image; the rest stays as it is."""
    channel_bits: int = 3
    """Bits of the mean of each channel: with three channels there are 512 colours."""

    def check(self) -> None:
        super().check()
        if not 1 <= self.channel_bits <= 8:
            raise UserError(f'objective.channel_bits={self.channel_bits} must lie between 1 and 8')

    def module(self, model: nn.Module, scale: Scaled | None) -> Any:
        channels = getattr(model, 'channels', 3)

        def of_each(values: tuple[float, ...]) -> tuple[float, ...]:
            return tuple(values) * channels if len(values) == 1 else tuple(values)

        return MPP.paper(
            model,
            mask_prob=self.mask_prob,
            replace_prob=self.replace_prob,
            random_patch_prob=self.random_patch_prob,
            output_channel_bits=self.channel_bits,
            mean=None if scale is None else of_each(scale.mean),
            std=None if scale is None else of_each(scale.std),
            dtype=getattr(model, 'dtype', None),
        )

    def draws(self, module: Any, images: Array, rng: Array, scale: Scaled) -> dict[str, Array]:
        unit_interval(images)  # colours have classes, which numbers of another scale have not
        return super().draws(module, images, rng, scale)

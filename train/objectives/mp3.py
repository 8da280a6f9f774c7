"""MP3 (arXiv:2207.07611): patches without positions tell where in the image they stand."""

from dataclasses import dataclass
from typing import Any

from flax import linen as nn

from train.objectives.objective import Reconstruct, Scaled
from train.objectives.pretraining import MaskedImages
from vit_flax.objectives.mp3 import MP3


@dataclass(frozen=True)
class Mp3(MaskedImages):
    """The place of each patch, from a few of the others."""

    masking_ratio: float = 0.75
    """Share of the patches that the others cannot read."""

    def module(self, model: nn.Module, scale: Scaled | None) -> Any:
        return MP3(vit=model, masking_ratio=self.masking_ratio, dtype=getattr(model, 'dtype', None))

    def pictures(self, model: nn.Module, scale: Scaled) -> Reconstruct | None:
        return None

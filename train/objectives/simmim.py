"""SimMIM (arXiv:2111.09886): the encoder sees hidden patches as one learned token, a linear layer predicts them."""

from dataclasses import dataclass
from typing import Any

from flax import linen as nn

from train.errors import UserError
from train.objectives.objective import Scaled
from train.objectives.pretraining import MaskedImages
from vit_flax.objectives.simmim import SimMIM


@dataclass(frozen=True)
class SimMim(MaskedImages):
    """Pixels of hidden patches, by a linear layer."""

    masking_ratio: float = 0.6
    """Share of the patches that is hidden."""
    mask_patch_size: int = 32
    """Hide blocks of so many pixels along each axis; 0 hides single patches."""

    def check(self) -> None:
        super().check()
        if self.mask_patch_size < 0:
            raise UserError(f'objective.mask_patch_size={self.mask_patch_size} must be at least 0')

    def module(self, model: nn.Module, scale: Scaled | None) -> Any:
        return SimMIM.paper(
            model,
            masking_ratio=self.masking_ratio,
            mask_patch_size=self.mask_patch_size or None,
            dtype=getattr(model, 'dtype', None),
        )

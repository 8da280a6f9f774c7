"""LeJEPA (arXiv:2511.08544): views of an image predict their mean, and embeddings are kept normally distributed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flax import linen as nn
from jax import Array

from train.errors import UserError
from train.objectives.objective import Scaled
from train.objectives.views import Views
from vit_flax.blocks.sigreg import draw_projections
from vit_flax.objectives.lejepa import LeJEPA


@dataclass(frozen=True)
class LeJepa(Views):
    """Views of an image are to have the same embedding, and those of a batch to be distributed normally (SIGReg)."""

    local_views: int = 6
    """Small crops of each image; there are two large ones."""
    global_scale: float = 0.3
    """Smallest part of the image's area in a large crop; the largest is all of it."""
    local_scale: float = 0.3
    """Largest part of the image's area in a small crop; the smallest is 0.05."""
    projection: int = 128
    """Width of the embeddings that are compared."""
    projection_hidden: int = 2048
    """Width of the projector's hidden layers."""
    projection_layers: int = 3
    """Its layers."""
    sigreg: float = 0.05
    """Weight of the distribution in the loss; the rest is that of the prediction."""
    slices: int = 1024
    """Random directions along which the distribution is looked at."""

    whole = 'SIGReg compares the distribution of all rows of a batch with the normal one'

    def check(self) -> None:
        super().check()
        for name in ('projection', 'projection_hidden', 'slices'):
            if getattr(self, name) < 1:
                raise UserError(f'objective.{name}={getattr(self, name)} must be at least 1')
        if self.projection_layers < 2:
            raise UserError(f'objective.projection_layers={self.projection_layers} must be at least 2')
        if not 0 < self.sigreg < 1:
            raise UserError(f'objective.sigreg={self.sigreg} must lie between 0 and 1')

    def module(self, model: nn.Module, scale: Scaled | None) -> Any:
        return LeJEPA.paper(
            model,
            1,
            num_classes_K=self.projection,
            projection_hidden_size=self.projection_hidden,
            projection_layers=self.projection_layers,
            target_loss_weight=1 - self.sigreg,
            sigreg_loss_weight=self.sigreg,
            sigreg_loss_kwargs={'num_slices': self.slices},
            dtype=getattr(model, 'dtype', None),
            **self.views(),
        )

    def inputs(self, module: Any, draws: Mapping[str, Array], rng: Array, progress: Array | float) -> dict[str, Any]:
        directions = draw_projections(rng, self.projection, self.slices)
        return {**super().inputs(module, draws, rng, progress), 'projections': directions}

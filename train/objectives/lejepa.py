"""LeJEPA (arXiv:2511.08544): views of an image predict their mean, and embeddings are regularised to a normal one."""

from typing import Any

from flax import linen as nn

from train.errors import UserError
from train.objectives.dino import NAMES as DINO_NAMES
from train.objectives.objective import Scaled
from train.objectives.options import trains
from train.objectives.pretraining import Pretraining
from vit_flax.objectives.lejepa import PAPER_VIEWS, LeJEPALoss

NAMES = {**DINO_NAMES, 'num_classes_K': 'projection'}


@trains(LeJEPALoss, PAPER_VIEWS, NAMES, without=('image_size', 'target_loss_weight', 'sigreg_loss_weight'))
class LeJepa(Pretraining):
    """Distance between the embeddings of an image's views, and of their distribution from a normal one (SIGReg)."""

    sigreg: float = 0.05
    """Weight of SIGReg in the loss (lambda); that of the prediction is 1 - sigreg."""
    slices: int = 1024
    """Number of random directions (slices) of SIGReg."""

    whole = 'SIGReg compares the distribution of all rows of a batch with the normal one'

    def check(self) -> None:
        super().check()
        if self.slices < 1:
            raise UserError(f'objective.slices={self.slices} must be at least 1')
        if not 0 < self.sigreg < 1:
            raise UserError(f'objective.sigreg={self.sigreg} must lie between 0 and 1')

    def derived(self, model: nn.Module, scale: Scaled | None) -> dict[str, Any]:
        return {
            'target_loss_weight': 1 - self.sigreg,
            'sigreg_loss_weight': self.sigreg,
            'sigreg_loss_kwargs': {'num_slices': self.slices},
        }

"""SimMIM (arXiv:2111.09886): the encoder gets masked patches as one learned token, a linear layer predicts them."""

from train.objectives.options import trains
from train.objectives.pretraining import Pretraining
from vit_flax.objectives.simmim import SimMIM


@trains(SimMIM, without=('class_token',))
class SimMim(Pretraining):
    """Mean absolute error of masked patches, predicted by a linear layer."""

    reconstructs = True

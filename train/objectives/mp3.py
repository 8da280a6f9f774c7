"""MP3 (arXiv:2207.07611): the positions of patches are predicted from their content."""

from train.objectives.options import trains
from train.objectives.pretraining import Pretraining
from vit_flax.objectives.mp3 import MP3


@trains(MP3)
class Mp3(Pretraining):
    """Cross-entropy of the position of each patch, which attends to a few of the others."""

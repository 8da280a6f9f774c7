"""EsViT (arXiv:2106.09785): self-distillation of views and of the positions of their feature maps."""

from train.objectives.dino import NAMES
from train.objectives.options import trains
from train.objectives.pretraining import Pretraining
from train.objectives.teacher_schedule import TeacherSchedule
from vit_flax.objectives.dino import PAPER_VIEWS
from vit_flax.objectives.es_vit import EsViTLoss


@trains(EsViTLoss, PAPER_VIEWS, NAMES, without=('image_size',))
class EsVit(TeacherSchedule, Pretraining):
    """DINO for networks that end in a feature map, whose positions are compared too.

    The teacher's EMA decay grows from `momentum` to 1 along half a cosine.
    """

"""DINO (arXiv:2104.14294): self-distillation without labels."""

from train.objectives.options import trains
from train.objectives.pretraining import Pretraining
from train.objectives.teacher_schedule import TeacherSchedule
from vit_flax.objectives.dino import PAPER_VIEWS, DinoLoss

# Arguments of DINO's and EsViT's losses and views whose options have shorter names.
NAMES = {
    'num_classes_K': 'prototypes',
    'projection_hidden_size': 'projection_hidden',
    'moving_average_decay': 'momentum',
    'center_moving_average_decay': 'center_momentum',
    'num_local_views': 'local_views',
    'global_lower_crop_scale': 'global_scale',
    'local_upper_crop_scale': 'local_scale',
    'local_lower_crop_scale': 'local_scale_min',
}


@trains(DinoLoss, PAPER_VIEWS, NAMES, without=('image_size',))
class Dino(TeacherSchedule, Pretraining):
    """Cross-entropy between a student and its teacher, an exponential moving average of it, over prototypes.

    The teacher's EMA decay grows from `momentum` to 1 along half a cosine.
    """

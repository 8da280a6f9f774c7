"""Efficient Self-supervised Vision Transformers, arXiv:2106.09785; upstream module `es_vit`.

Views are arguments, as in `dino`. What stands behind `moving_average_decay` is the paper's.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from vit_torch_ref.objectives.dino import Projector, compared, layer_output, move, shape_of


class ProjectedMap(nn.Module):
    def __init__(self, net, layer, width, *sizes, region_axis=1):
        super().__init__()
        self.net, self.layer = net, layer
        self.view_projector = Projector(width, *sizes)
        self.region_projector = Projector(width, *sizes, region_axis)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        places = layer_output(self.net, self.layer, images).flatten(2).mT
        return self.view_projector(places.mean(dim=1)), self.region_projector(places), places


class EsViTTrainer(nn.Module):
    # upstream: the constructor runs the network once: statistics of BatchNorm and the last centres move before training
    # begins. Here they do not.
    def __init__(
        self,
        net,
        image_size,
        num_classes_K=65336,
        projection_layers=4,
        projection_hidden_size=256,
        hidden_layer=-2,
        teacher_temp=0.04,
        student_temp=0.9,
        center_moving_average_decay=0.9,
        moving_average_decay=0.9,
        projection_bottleneck=None,
        student_sees_global=False,
        scale_places=False,
        cosine_matches=False,
    ):
        super().__init__()
        self.net, self.decay, self.center_decay = net, moving_average_decay, center_moving_average_decay
        self.temperatures, self.sees_global, self.cosine = (
            (student_temp, teacher_temp),
            student_sees_global,
            cosine_matches,
        )
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        width = shape_of(net, hidden_layer, size, 3)[0]
        sizes = num_classes_K, projection_layers, projection_hidden_size, projection_bottleneck
        axis = -1 if scale_places else 1
        self.student_encoder = ProjectedMap(net, hidden_layer, width, *sizes, region_axis=axis)
        self.teacher_encoder = copy.deepcopy(self.student_encoder).requires_grad_(False)
        for name in ('view', 'region'):
            self.register_buffer(f'teacher_{name}_centers', torch.zeros(1, num_classes_K))
            self.register_buffer(f'last_teacher_{name}_centers', torch.zeros(1, num_classes_K))

    def forward(self, large: Tensor, small: Tensor, student_temp=None, teacher_temp=None) -> Tensor:
        cool, cold = self.temperatures[0] if student_temp is None else student_temp, teacher_temp
        cold = self.temperatures[1] if cold is None else cold
        student = [self.student_encoder(view) for view in ([*large, *small] if self.sees_global else [*small])]
        with torch.no_grad():
            teacher = [self.teacher_encoder(view) for view in large]
        losses = []
        for kind, name in enumerate(('view', 'region')):
            centers = getattr(self, f'teacher_{name}_centers')
            logits = [one[kind] for one in teacher]
            answers = [(((one[kind] - centers) / cold).softmax(dim=-1), one[2]) for one in teacher]
            guesses = [(torch.log((one[kind] / cool).softmax(dim=-1) + 1e-20), one[2]) for one in student]
            for (answer, theirs), (guess, ours) in compared(answers, guesses):
                if name == 'region':
                    if self.cosine:
                        theirs, ours = normalize(theirs, dim=-1), normalize(ours, dim=-1)
                    nearest = (ours @ theirs.mT).argmax(dim=-1)
                    answer = torch.take_along_dim(answer, nearest[..., None], dim=1)
                losses.append(-(answer * guess).sum(dim=-1).mean())
            getattr(self, f'last_teacher_{name}_centers').copy_(torch.cat(logits).flatten(0, -2).mean(dim=0))
        return torch.stack(losses).mean()

    def update_moving_average(self) -> None:
        move(self.teacher_encoder, self.student_encoder, self.decay)
        for name in ('view', 'region'):
            last = getattr(self, f'last_teacher_{name}_centers')
            getattr(self, f'teacher_{name}_centers').lerp_(last, 1 - self.center_decay)

"""Emerging Properties in Self-Supervised Vision Transformers, arXiv:2104.14294; upstream module `dino`.

Views are arguments: large ones `[2 b c h w]` for the teacher, small ones `[v b c h w]` for the student.
What stands behind `moving_average_decay` is the paper's, not upstream's.
"""

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize


class UnitLength(nn.Module):
    def __init__(self, axis):
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        return normalize(x, dim=self.axis, eps=1e-6)


class UnitLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return linear(x, normalize(self.weight, dim=-1, eps=1e-6))


class Projector(nn.Module):
    def __init__(self, dim, features, layers, hidden, bottleneck=None, axis=1):
        super().__init__()
        widths = [dim] + [hidden] * (layers - 1)
        steps = [step for a, b in pairwise(widths) for step in (nn.Linear(a, b), nn.GELU())]
        if bottleneck is None:
            last = UnitLength(axis), nn.Linear(hidden, features)
        else:
            last = nn.Linear(hidden, bottleneck), UnitLength(-1), UnitLinear(bottleneck, features, bias=False)
        self.net = nn.Sequential(*steps, *last)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def layer_output(net: nn.Module, layer, images: Tensor) -> Tensor:
    """Output (-1), what the last child takes (-2), or what a named module gives."""
    if layer == -1:
        return net(images)
    seen: list[Tensor] = []
    if layer == -2:
        handle = list(net.children())[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    else:
        handle = net.get_submodule(layer).register_forward_hook(lambda *call: seen.append(call[-1]))
    net(images)
    handle.remove()
    return seen[0]


class ProjectedNet(nn.Module):
    """`shape` is that of the layer, flattened or averaged over tokens `[n c]` or the places of a map `[c h w]`."""

    def __init__(self, net, layer, shape, *projector, average_places=False):
        super().__init__()
        self.net, self.layer, self.places = net, layer, {1: (), 2: (1,), 3: (2, 3)}[len(shape)] * average_places
        self.projector = Projector(shape[-1 if len(shape) < 3 else 0] if self.places else shape.numel(), *projector)

    def forward(self, images: Tensor) -> Tensor:
        output = layer_output(self.net, self.layer, images)
        return self.projector(output.mean(dim=self.places) if self.places else output.flatten(1))


def move(old: nn.Module, new: nn.Module, decay: float) -> None:
    """Parameters alone: buffers stay."""
    with torch.no_grad():
        for mine, theirs in zip(old.parameters(), new.parameters(), strict=True):
            mine.copy_(mine * decay + theirs * (1 - decay))


def compared(teacher: list, student: list) -> list[tuple]:
    """All views of both but those of the same number."""
    return [(t, s) for i, t in enumerate(teacher) for j, s in enumerate(student) if i != j]


def shape_of(net: nn.Module, layer, image_size, channels: int) -> torch.Size:
    """Shape of a layer, the batch left out."""
    was = net.training
    with torch.no_grad():
        shape = layer_output(net.eval(), layer, torch.zeros(1, channels, *image_size)).shape[1:]
    net.train(was)
    return shape


class Dino(nn.Module):
    # upstream: the constructor runs the network once, to learn the width of the layer: statistics of BatchNorm and the
    # last centres move before training begins. Here they do not.
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
        average_places=False,
    ):
        super().__init__()
        self.net, self.decay, self.center_decay = net, moving_average_decay, center_moving_average_decay
        self.temperatures, self.sees_global = (student_temp, teacher_temp), student_sees_global
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        shape = shape_of(net, hidden_layer, size, 3)
        sizes = num_classes_K, projection_layers, projection_hidden_size, projection_bottleneck
        self.student_encoder = ProjectedNet(net, hidden_layer, shape, *sizes, average_places=average_places)
        self.teacher_encoder = copy.deepcopy(self.student_encoder).requires_grad_(False)
        self.register_buffer('teacher_centers', torch.zeros(1, num_classes_K))
        self.register_buffer('last_teacher_centers', torch.zeros(1, num_classes_K))

    def forward(self, large: Tensor, small: Tensor, student_temp=None, teacher_temp=None) -> Tensor:
        cool, cold = self.temperatures[0] if student_temp is None else student_temp, teacher_temp
        cold = self.temperatures[1] if cold is None else cold
        views = [*large, *small] if self.sees_global else [*small]
        student = [(self.student_encoder(view) / cool).log_softmax(dim=-1) for view in views]
        with torch.no_grad():
            logits = [self.teacher_encoder(view) for view in large]
            teacher = [((one - self.teacher_centers) / cold).softmax(dim=-1) for one in logits]
            self.last_teacher_centers.copy_(torch.cat(logits).mean(dim=0))
        losses = [-(t * s).sum(dim=-1).mean() for t, s in compared(teacher, student)]
        return torch.stack(losses).mean()

    def update_moving_average(self) -> None:
        move(self.teacher_encoder, self.student_encoder, self.decay)
        self.teacher_centers.lerp_(self.last_teacher_centers, 1 - self.center_decay)

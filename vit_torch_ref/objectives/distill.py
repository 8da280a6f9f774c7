"""Distillation through attention, arXiv:2012.12877; upstream module `distill`.

`teacher_logits` are ours: upstream always asks its teacher.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


class DistillWrapper(nn.Module):
    def __init__(self, *, student, teacher=None, hard=False, temperature=1.0, alpha=0.5, mlp_layernorm=False):
        super().__init__()
        self.teacher, self.student = teacher, student
        self.hard, self.temperature, self.alpha = hard, temperature, alpha
        dim = student.pos_embedding.shape[-1]
        classes = [layer for layer in student.mlp_head.modules() if isinstance(layer, nn.Linear)][-1].out_features
        self.distillation_token = nn.Parameter(torch.randn(1, dim))
        norm = nn.LayerNorm(dim) if mlp_layernorm else nn.Identity()
        self.distill_mlp = nn.Sequential(norm, nn.Linear(dim, classes))

    def forward(self, images: Tensor, labels: Tensor, temperature=None, alpha=None, teacher_logits=None) -> Tensor:
        share = self.alpha if alpha is None else alpha
        scale = self.temperature if temperature is None else temperature
        if teacher_logits is None:
            # upstream: the teacher trains along, its dropout and its BatchNorms are in training mode.
            self.teacher.eval()
            teacher_logits = self.teacher(images).detach()
        logits, token = self.student(images, distill_token=self.distillation_token)
        answers = self.distill_mlp(token)
        if self.hard:
            taught = cross_entropy(answers, teacher_logits.argmax(dim=-1))
        else:
            wanted = (teacher_logits / scale).softmax(dim=-1)
            # the divergence is the cross entropy less the teacher's own entropy
            own = (wanted * wanted.log()).sum(dim=-1).mean()
            taught = scale**2 * (own + cross_entropy(answers / scale, wanted))
        return share * taught + (1 - share) * cross_entropy(logits, labels)

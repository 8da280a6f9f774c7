"""Training data-efficient image transformers & distillation through attention, arXiv:2012.12877.

vit-pytorch's `distill`: the class token learns the labels, and a distillation token the output of a teacher, which is
any function of the images.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax
from jax.nn.initializers import normal

from vit_flax.blocks.module import Module
from vit_flax.blocks.precision import to_float32
from vit_flax.blocks.torch_like import Dense, LayerNorm
from vit_flax.models.distill import Distillable, DistillableEfficientViT, DistillableT2TViT, DistillableViT
from vit_flax.objectives.classify import cross_entropy
from vit_flax.objectives.monitors import watch
from vit_flax.objectives.objective import Objective
from vit_flax.objectives.teacher import apply_teacher

__all__ = ['DistillWrapper', 'DistillableEfficientViT', 'DistillableT2TViT', 'DistillableViT']

Number = float | Array


class DistillHead(Module):
    """Optionally LayerNorm, then Linear, `[b d] -> [b num_classes]`."""

    num_classes: int
    norm: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if self.norm:
            x = LayerNorm(**self.precision, name='norm')(x)
        return Dense(self.num_classes, **self.precision, name='linear')(x)

    torch_names = {'norm': '0', 'linear': '1'}


class DistillWrapper(Objective, kw_only=True):
    """Distillation (arXiv:2012.12877): images `[b h w c]` and labels `[b]` to a loss.

    Attributes:
      student: a model of `vit_flax.models.distill`. Its variables are under `encoder`.
      teacher: returns logits `[b num_classes]` of the images. A linen module, evaluated and never trained, whose
        variables are in the collections of a teacher (`vit_flax.objectives.teacher`; `with_teacher` puts trained ones
        there); or any function of the images; or None, where each call is given `teacher_logits`.
      temperature: divides the logits of student and teacher in the soft loss.
      alpha: weight of the distillation loss; that of the labels is 1 - alpha.
      hard: learn the teacher's most likely class instead of its probabilities.
      mlp_layernorm: apply LayerNorm between the distillation token and its logits.

    Raises:
      ValueError: a student that takes no distillation token, or no teacher and no logits of one.
    """

    student: Any
    teacher: Any = None
    temperature: float = 1.0
    alpha: float = 0.5
    hard: bool = False
    mlp_layernorm: bool = False

    encoder_argument: ClassVar[str] = 'student'
    PAPER: ClassVar[Mapping[str, Any]] = {'hard': True, 'alpha': 0.5}

    @classmethod
    def paper(cls, teacher: Any, student: nn.Module, **changes: Any) -> 'DistillWrapper':
        """The paper's (section 4, equation 3): labels and the teacher's most likely class, half each."""
        return cls(teacher=teacher, student=student, **{**cls.PAPER, **changes})

    def setup(self) -> None:
        if not isinstance(self.student, Distillable):
            raise ValueError(
                f'student={type(self.student).__name__} takes no distillation token: it must be DistillableViT, '
                'DistillableT2TViT or DistillableEfficientViT'
            )
        self.encoder = self.student.clone(_deep_clone=True)
        shape = 1, self.student.dim
        self.distillation_token = self.param('distillation_token', normal(1.0), shape, self.param_dtype)
        self.distill_mlp = DistillHead(self.student.num_classes, self.mlp_layernorm, **self.precision)

    def teacher_logits(self, images: Array) -> Array | None:
        """The teacher's logits, `[b num_classes]`, without gradient; None without a teacher."""
        if self.teacher is None:
            return None
        if isinstance(self.teacher, nn.Module):
            # upstream: the teacher is in training mode whenever the student is, with its dropout, and the statistics
            # of its BatchNorms change with every batch. Here it is evaluated.
            return apply_teacher(lambda teacher, images: teacher(images), self.teacher, images)
        return lax.stop_gradient(self.teacher(images))

    def logits(self, images: Array, train: bool = False) -> tuple[Array, Array]:
        """Of the class token and of the distillation token, `[b num_classes]` each.

        The paper averages their probabilities.
        """
        logits, token = self.encoder(images, train=train, distill_token=self.distillation_token)
        return logits, self.distill_mlp(token)

    def __call__(
        self,
        images: Array,
        labels: Array,
        temperature: Number | None = None,
        alpha: Number | None = None,
        teacher_logits: Array | None = None,
        train: bool = False,
    ) -> Array:
        """The loss, a scalar.

        Args:
          images: `[b h w c]`.
          labels: int `[b]`, or probabilities of the classes `[b num_classes]`, as of mixup.
          temperature, alpha: of this call instead of the objective's.
          teacher_logits: `[b num_classes]`, of a teacher that was evaluated elsewhere.
          train: dropout of the student.
        """
        if teacher_logits is None or self.is_initializing():
            computed = self.teacher_logits(images)
            teacher_logits = computed if teacher_logits is None else teacher_logits
        if teacher_logits is None:
            raise ValueError('teacher=None: give the teacher_logits of these images, or a teacher')
        temperature = self.temperature if temperature is None else temperature
        alpha = self.alpha if alpha is None else alpha

        of_class, of_token = self.logits(images, train)
        watch(self, 'class_prediction', of_class.argmax(axis=-1))
        watch(self, 'token_prediction', of_token.argmax(axis=-1))
        teacher_logits = to_float32(lax.stop_gradient(teacher_logits))
        if self.hard:
            distill_loss = cross_entropy(of_token, teacher_logits.argmax(axis=-1))
        else:
            student = jax.nn.log_softmax(to_float32(of_token) / temperature)
            teacher = jax.nn.log_softmax(teacher_logits / temperature)
            divergence = (jnp.exp(teacher) * (teacher - student)).sum(axis=-1)
            distill_loss = divergence.mean() * temperature**2
        return cross_entropy(of_class, labels) * (1 - alpha) + distill_loss * alpha

    torch_names = {'encoder': 'student'}

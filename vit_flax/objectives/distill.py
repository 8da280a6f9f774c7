"""Training data-efficient image transformers & distillation through attention, arXiv:2012.12877.

vit-pytorch's `distill`: the student learns its labels from the class token, and what a teacher answers from a
token of its own. The teacher is any function of the images.
"""

from typing import Any

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
from vit_flax.objectives.teacher import apply_frozen

__all__ = ['DistillWrapper', 'DistillableEfficientViT', 'DistillableT2TViT', 'DistillableViT']

Number = float | Array


class DistillHead(Module):
    """Perhaps LayerNorm, then Linear, `[b d] -> [b num_classes]`."""

    num_classes: int
    norm: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if self.norm:
            x = LayerNorm(**self.precision, name='norm')(x)
        return Dense(self.num_classes, **self.precision, name='linear')(x)

    torch_names = {'norm': '0', 'linear': '1'}


class DistillWrapper(Module, kw_only=True):
    """Distillation (arXiv:2012.12877): images `[b h w c]` and labels `[b]` to a loss.

    Attributes:
      student: a model of `vit_flax.models.distill`. Its variables stand under `encoder`.
      teacher: what makes logits `[b num_classes]` of the images. A linen module, evaluated and never trained, whose
        variables stand in the collections `teacher_params` and so on (`vit_flax.objectives.teacher.with_teacher`
        puts trained ones there); or any function of the images; or None, where each call is given `teacher_logits`.
      temperature: logits of both are divided by it in the soft loss.
      alpha: share of the teacher in the loss; the rest is the labels'.
      hard: learn the teacher's likeliest class, not its probabilities.
      mlp_layernorm: a LayerNorm between the distillation token and its logits.

    Raises:
      ValueError: a student that takes no distillation token, or no teacher and no logits of one.
    """

    student: Any
    teacher: Any = None
    temperature: float = 1.0
    alpha: float = 0.5
    hard: bool = False
    mlp_layernorm: bool = False

    @classmethod
    def paper(cls, teacher: Any, student: nn.Module, **changes: Any) -> 'DistillWrapper':
        """The paper's (section 4, equation 3): labels and the teacher's likeliest class, half each."""
        return cls(**{'teacher': teacher, 'student': student, 'hard': True, 'alpha': 0.5, **changes})

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

    def answers(self, images: Array) -> Array | None:
        """The teacher's logits, `[b num_classes]`, without gradient; None without a teacher."""
        if self.teacher is None:
            return None
        if isinstance(self.teacher, nn.Module):
            # upstream: the teacher is in training mode whenever the student is, with its dropout, and the statistics
            # of its BatchNorms change with every batch. Here it is evaluated.
            logits = apply_frozen(self, lambda teacher, images: teacher(images), self.teacher, images)
        else:
            logits = self.teacher(images)
        return lax.stop_gradient(logits)

    def logits(self, images: Array, train: bool = False) -> tuple[Array, Array]:
        """Of the class token and of the distillation token, `[b num_classes]` each; the paper averages their shares."""
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
          labels: int `[b]`, or shares of the classes `[b num_classes]`, as mixup makes them.
          temperature, alpha: of this call instead of the objective's.
          teacher_logits: `[b num_classes]`, of a teacher that was asked elsewhere.
          train: dropout of the student.
        """
        if teacher_logits is None or self.is_initializing():
            answers = self.answers(images)
            teacher_logits = answers if teacher_logits is None else teacher_logits
        if teacher_logits is None:
            raise ValueError('teacher=None: give the teacher_logits of these images, or a teacher')
        temperature = self.temperature if temperature is None else temperature
        alpha = self.alpha if alpha is None else alpha

        of_class, of_token = self.logits(images, train)
        watch(self, 'said', of_class.argmax(axis=-1))
        watch(self, 'token_said', of_token.argmax(axis=-1))
        teacher_logits = to_float32(lax.stop_gradient(teacher_logits))
        if self.hard:
            distill_loss = cross_entropy(of_token, teacher_logits.argmax(axis=-1))
        else:
            learned = jax.nn.log_softmax(to_float32(of_token) / temperature)
            taught = jax.nn.log_softmax(teacher_logits / temperature)
            divergence = (jnp.exp(taught) * (taught - learned)).sum(axis=-1)
            distill_loss = divergence.mean() * temperature**2
        return cross_entropy(of_class, labels) * (1 - alpha) + distill_loss * alpha

    torch_names = {'encoder': 'student'}

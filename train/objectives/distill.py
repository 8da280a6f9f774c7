"""Distillation (arXiv:2012.12877): the class token learns the labels, a distillation token a teacher's output."""

import dataclasses
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import Array

from train.errors import UserError
from train.objectives.classification import Classification
from train.objectives.objective import RNGS, Batch, Scaled, Variables
from train.objectives.options import check_options, trains, values_of
from vit_flax.blocks.precision import to_float32
from vit_flax.objectives.distill import DistillWrapper
from vit_flax.objectives.monitors import MONITORS
from vit_flax.objectives.objective import encoder_variables, with_encoder

if TYPE_CHECKING:
    from train.run import Run


@trains(DistillWrapper, defaults={'temperature': 3.0})
class Distill(Classification):
    """Labels, and the output of a trained teacher for the same images."""

    teacher: str = ''
    """Run whose best checkpoint is the teacher, of the same classes and the same image size."""
    inside = 'encoder/'
    arguments: ClassVar[Mapping[str, str]]

    if TYPE_CHECKING:  # options are made from the arguments of the loss

        def __init__(self, **options: Any) -> None: ...

        def __getattr__(self, name: str) -> Any: ...

    def check(self) -> None:
        super().check()
        check_options(self)
        if self.alpha and not self.teacher:
            raise UserError(
                'objective.teacher is missing: name a run, such as runs/cifar10, whose output the student learns'
            )

    def module(self, model: nn.Module, scale: Scaled | None = None) -> Any:
        """The objective around the student."""
        del scale
        return DistillWrapper(student=model, dtype=getattr(model, 'dtype', None), **values_of(self, self.arguments))

    def init(self, module: Any, rng: Array, batch: Batch) -> Variables:
        logits = jnp.zeros((len(batch['image']), module.student.num_classes))
        return module.init(rng, batch['image'], batch['label'], teacher_logits=logits)

    def given(self) -> Mapping[str, Any]:
        return {'teacher': taught_by(self.teacher).variables} if self.alpha else {}

    def prepare(self, model: nn.Module, batch: Batch, rng: Array, scale: Scaled, train: bool) -> Batch:
        rows = {name: leaf for name, leaf in batch.items() if name != 'teacher'}
        rows = dict(super().prepare(model, rows, rng, scale, train))
        if not train or not self.alpha:
            return rows
        return {**rows, 'teacher_logits': self._teacher_logits(model, batch['teacher'], rows['image'], scale)}

    def _teacher_logits(self, model: Any, variables: Variables, images: Array, scale: Scaled) -> Array:
        """The teacher's logits for scaled images, `[b classes]`."""
        teacher = taught_by(self.teacher)
        if teacher.facts.shape != images.shape[1:]:
            raise UserError(
                f'objective.teacher={self.teacher} knows images of shape {teacher.facts.shape}, these are of shape '
                f'{images.shape[1:]}'
            )
        if teacher.scale != scale:
            images = teacher.scale.views(images * np.asarray(scale.std) + np.asarray(scale.mean))
        logits = teacher.config.objective.logits(teacher.model, variables, images)
        if logits.shape[-1] != model.num_classes:
            raise UserError(
                f'objective.teacher={self.teacher} knows {logits.shape[-1]} classes, the student {model.num_classes}'
            )
        return jax.lax.stop_gradient(logits)

    def loss(
        self,
        module: Any,
        variables: Variables,
        batch: Batch,
        rng: Array,
        train: bool,
        progress: Array | float = 0.0,
    ) -> tuple[Array, tuple[dict[str, Array], Variables]]:
        state: Variables = {name: tree for name, tree in variables.items() if name != 'params'}
        if not train:
            logits = self.logits(module.student, variables, batch['image'])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch['label'])
            hits = (logits.argmax(-1) == batch['label']).astype(jnp.float32)
            return losses.mean(), ({'loss': losses, 'accuracy': hits}, state)
        rngs = {name: jax.random.fold_in(rng, i) for i, name in enumerate(RNGS)}
        targets = self.targets(batch, module.student.num_classes)
        loss, new = module.apply(
            variables,
            batch['image'],
            targets,
            teacher_logits=batch.get('teacher_logits', jnp.zeros_like(targets)),
            train=True,
            rngs=rngs,
            mutable=[*state, MONITORS],
        )
        monitors = new.pop(MONITORS)
        metrics = {
            'loss': jnp.full(len(targets), loss),
            'accuracy': (monitors['class_prediction'] == batch['label']).astype(jnp.float32),
        }
        if 'teacher_logits' in batch:
            agreed = monitors['token_prediction'] == batch['teacher_logits'].argmax(-1)
            metrics['agreement'] = agreed.astype(jnp.float32)
        return loss, (metrics, {**state, **new})

    def logits(self, model: nn.Module, variables: Variables, images: Array) -> Array:
        """Log of the mean of the class token's and the distillation token's probabilities, as in the paper."""
        both = self.module(model).apply(variables, images, method='logits')
        of_class, of_token = (jax.nn.log_softmax(to_float32(jnp.asarray(logits))) for logits in both)
        return jnp.logaddexp(of_class, of_token) - jnp.log(2.0) if self.alpha else of_class

    def network(self, variables: Variables) -> Variables:
        return encoder_variables(variables)

    def with_network(self, variables: Variables, network: Variables) -> Variables:
        return with_encoder(variables, network)


@cache
def taught_by(run: str) -> 'Run':
    """The run of a teacher at its best checkpoint; variables on the host.

    Raises:
      UserError: it cannot be read, or is no classifier.
    """
    from train.run import open_run  # which reads objectives itself

    try:
        teacher = open_run(run, 'best')
    except UserError as error:
        raise UserError(f'objective.teacher: {error}') from error
    if not teacher.config.objective.classifies:
        raise UserError(f'objective.teacher={run} has learned no classes')
    return dataclasses.replace(teacher, variables=jax.device_get(teacher.variables))

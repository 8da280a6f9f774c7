"""What DINO and EsViT share in training: a teacher that follows the student, with schedules of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from train.errors import UserError
from train.objectives.objective import Variables
from train.objectives.views import Views


@dataclass(frozen=True)
class SelfDistilled(Views):
    """A student tells from its views what its teacher, an average of its past, sees in the large ones."""

    prototypes: int = 65536
    """Answers that there are, none of which anybody has labelled."""
    projection_hidden: int = 2048
    """Width of the projector's hidden layers."""
    projection_layers: int = 3
    """Its layers before the prototypes."""
    projection_bottleneck: int = 256
    """Width of the unit vectors that are compared with the prototypes."""
    student_temp: float = 0.1
    """Temperature of the student's answers; lower is sharper."""
    teacher_temp: float = 0.04
    """Temperature of the teacher's, after its warm-up."""
    teacher_temp_start: float = 0.04
    """Temperature of the teacher's at first."""
    teacher_temp_warmup: float = 0.1
    """Part of the steps in which it goes from one to the other."""
    momentum: float = 0.996
    """Memory of the teacher at first; it grows to 1 along half a cosine."""
    center_momentum: float = 0.9
    """Memory of the centre of the teacher's answers."""

    def check(self) -> None:
        super().check()
        for name in ('prototypes', 'projection_hidden', 'projection_bottleneck'):
            if getattr(self, name) < 1:
                raise UserError(f'objective.{name}={getattr(self, name)} must be at least 1')
        if self.projection_layers < 2:
            raise UserError(f'objective.projection_layers={self.projection_layers} must be at least 2')
        for name in ('student_temp', 'teacher_temp', 'teacher_temp_start'):
            if not getattr(self, name) > 0:
                raise UserError(f'objective.{name}={getattr(self, name)} must be above 0')
        for name in ('teacher_temp_warmup', 'momentum', 'center_momentum'):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f'objective.{name}={getattr(self, name)} must lie between 0 and 1')

    def settings(self, model: nn.Module) -> dict[str, Any]:
        """Arguments of the objective."""
        return {
            **self.views(),
            'num_classes_K': self.prototypes,
            'projection_hidden_size': self.projection_hidden,
            'projection_layers': self.projection_layers,
            'projection_bottleneck': self.projection_bottleneck,
            'student_temp': self.student_temp,
            'center_moving_average_decay': self.center_momentum,
            'dtype': getattr(model, 'dtype', None),
        }

    def temperature(self, progress: Array | float) -> Array:
        """Of the teacher."""
        risen = jnp.clip(progress / max(self.teacher_temp_warmup, 1e-9), 0, 1)
        return self.teacher_temp_start + risen * (self.teacher_temp - self.teacher_temp_start)

    def memory(self, progress: Array | float) -> Array:
        """Of the teacher."""
        return 1 - (1 - self.momentum) * (1 + jnp.cos(jnp.pi * progress)) / 2

    def inputs(self, module: Any, draws: Mapping[str, Array], rng: Array, progress: Array | float) -> dict[str, Any]:
        return {**super().inputs(module, draws, rng, progress), 'teacher_temp': self.temperature(progress)}

    def post_update(self, model: nn.Module, variables: Variables, progress: Array | float = 0.0) -> Variables:
        variables = super().post_update(model, variables, progress)
        return self.module(model, None).post_update(variables, decay=self.memory(progress))

    def followed(self, path: tuple[str, ...]) -> tuple[str, ...]:
        if path[:2] == ('teacher', 'net'):
            return 'encoder', *path[2:]
        return ('student', *path[1:]) if path[:1] == ('teacher',) and len(path) > 1 else path

    def network(self, variables: Variables) -> Variables:
        """The teacher's, which is what the paper evaluates."""
        others = {name: tree for name, tree in variables.items() if name not in ('params', 'teacher')}
        others = {name: tree['teacher']['net'] for name, tree in others.items() if 'net' in tree.get('teacher', ())}
        return {'params': variables['teacher']['teacher']['net'], **others}

    def with_network(self, variables: Variables, network: Variables) -> Variables:
        """Student and teacher begin alike."""
        changed = dict(super().with_network(variables, network))
        for name, tree in network.items():
            place = 'teacher' if name == 'params' else name
            changed[place] = {**changed[place], 'teacher': {**changed[place]['teacher'], 'net': tree}}
        return changed

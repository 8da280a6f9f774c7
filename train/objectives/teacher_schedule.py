"""Schedules of a teacher that is a moving average of its student, as of DINO (arXiv:2104.14294)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from jax import Array


@dataclass(frozen=True)
class TeacherSchedule:
    """The teacher's temperature and EMA decay over a run; comes before `Pretraining` among the bases of a class."""

    teacher_temp_start: float = 0.04
    """Temperature of the teacher's softmax at the first step; it changes linearly to `teacher_temp`."""
    teacher_temp_warmup: float = 0.1
    """Fraction of the steps after which the teacher's temperature is `teacher_temp`."""

    if TYPE_CHECKING:

        def __init__(self, **options: Any) -> None: ...

    def temperature(self: Any, progress: Array | float) -> Array:
        """Of the teacher's softmax."""
        risen = jnp.clip(progress / max(self.teacher_temp_warmup, 1e-9), 0, 1)
        return self.teacher_temp_start + risen * (self.teacher_temp - self.teacher_temp_start)

    def scheduled(self, progress: Array | float) -> dict[str, Array]:
        """Arguments of the loss that follow a schedule."""
        return {'teacher_temp': self.temperature(progress)}

    def decay(self: Any, progress: Array | float) -> Array:
        """EMA decay of the teacher: from `momentum` to 1 along half a cosine."""
        return 1 - (1 - self.momentum) * (1 + jnp.cos(jnp.pi * progress)) / 2

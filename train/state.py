"""Everything that a checkpoint must hold to continue bit for bit."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import Array

from train.objectives.objective import Variables


class TrainState(struct.PyTreeNode):
    """A run between two steps.

    Attributes:
      step: updates made so far, int32.
      params: the parameters.
      collections: the model's other variables, such as `batch_stats`.
      opt_state: the optimizer's.
      ema: running average of the parameters, or None.
    """

    step: Array
    params: Any
    collections: Any
    opt_state: Any
    ema: Any = None

    @property
    def variables(self) -> Variables:
        """What is trained."""
        return {'params': self.params, **self.collections}

    @property
    def evaluated(self) -> Variables:
        """What is evaluated: the average, if one is kept."""
        return {'params': self.params if self.ema is None else self.ema, **self.collections}


def initial_state(variables: Variables, tx: optax.GradientTransformation, ema: bool) -> TrainState:
    """The state before the first step. To be jitted, so that every leaf is born where it lives."""
    variables = dict(variables)
    params = variables.pop('params')
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        collections=variables,
        opt_state=tx.init(params),
        ema=jax.tree.map(jnp.copy, params) if ema else None,
    )

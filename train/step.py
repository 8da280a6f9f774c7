"""One training step and one evaluation step: pure functions, the same for every objective."""

from collections.abc import Callable

import jax
import optax
from flax import linen as nn
from jax import Array

from train.objectives.objective import Batch, Objective
from train.optim import average
from train.state import TrainState

Metrics = dict[str, Array]


def make_train_step(
    objective: Objective, model: nn.Module, tx: optax.GradientTransformation, seed: int, ema: float
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The step, to be jitted. What is random in it depends on (seed, step) alone."""

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(jax.random.key(seed), state.step)

        def loss_of(params):
            return objective.loss(model, {**state.variables, 'params': params}, batch, rng, train=True)

        (loss, (metrics, collections)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        variables = dict(objective.post_update(model, {'params': params, **collections}))
        params = variables.pop('params')
        step = state.step + 1
        new_state = TrainState(
            step=step,
            params=params,
            collections=variables,
            opt_state=opt_state,
            ema=None if state.ema is None else average(state.ema, params, step, ema),
        )
        numbers = {name: value.mean() for name, value in metrics.items()}
        return new_state, {**numbers, 'loss': loss, 'grad_norm': optax.tree.norm(grads)}

    return train_step


def make_eval_step(objective: Objective, model: nn.Module) -> Callable[[TrainState, Batch], tuple[Metrics, Array]]:
    """Sums of the metrics over the rows that count, and how many count; to be jitted."""

    def eval_step(state: TrainState, batch: Batch) -> tuple[Metrics, Array]:
        _, (metrics, _) = objective.loss(model, state.evaluated, batch, jax.random.key(0), train=False)
        weight = batch['weight']
        return {name: (value * weight).sum() for name, value in metrics.items()}, weight.sum()

    return eval_step

"""One training step and one evaluation step: pure functions, the same for every objective."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import Array

from train.config import Config
from train.frozen import Frozen
from train.objectives.objective import Batch, Objective, Variables
from train.optim import average
from train.scale import Scale
from train.state import TrainState

Metrics = dict[str, Array]

# Apart from the numbers that the loss folds in.
PREPARE = 2**31 - 1


def make_train_step(
    objective: Objective, model: nn.Module, tx: optax.GradientTransformation, scale: Scale, config: Config
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The step, to be jitted. What is random in it depends on (seed, step) alone."""
    module = objective.module(model, scale)

    def gradient(params, collections, batch: Batch, rng: Array, progress: Array):
        frozen = Frozen(config.optim.groups, params, objective.followed)

        def loss_of(params):
            params = frozen.without_gradient(params)
            with frozen.evaluated():
                return objective.loss(module, {**collections, 'params': params}, batch, rng, True, progress)

        (loss, (metrics, collections)), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        return grads, collections, {**{name: value.mean() for name, value in metrics.items()}, 'loss': loss}

    def accumulated(params, collections, batch: Batch, rng: Array, progress: Array):
        """The same in parts, one after the other. Each begins with the state of the whole batch, and what they make of
        it is averaged like the gradient: a centre is then the mean of all rows and not that of the last part."""
        parts = config.optim.accumulate

        def of_part(rows: Batch, index: Array):
            grads, new, numbers = gradient(params, collections, rows, jax.random.fold_in(rng, index), progress)
            # What no part changes, such as a whole teacher, is not added up.
            changes = jax.tree.map(lambda new, old: None if new is old else new - old, new, collections)
            return grads, numbers, changes

        def add(total, part):
            return jax.tree.map(jnp.add, total, of_part(*part)), None

        # Every part takes rows from everywhere, so that each device keeps the rows that it has.
        split = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1), batch)
        shapes = jax.eval_shape(of_part, jax.tree.map(lambda x: x[0], split), jnp.int32(0))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        total, _ = jax.lax.scan(add, zeros, (split, jnp.arange(parts)))
        grads, numbers, changes = jax.tree.map(lambda x: (x / parts).astype(x.dtype), total)
        collections = jax.tree.map(lambda old, change: old if change is None else old + change, collections, changes)
        return grads, collections, numbers

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(jax.random.key(config.seed), state.step)
        progress = state.step / config.steps
        batch = objective.prepare(model, batch, jax.random.fold_in(rng, PREPARE), scale, train=True)
        compute = gradient if config.optim.accumulate == 1 else accumulated
        grads, collections, numbers = compute(state.params, state.collections, batch, rng, progress)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        variables = dict(objective.post_update(module, {'params': params, **collections}, progress))
        params = variables.pop('params')
        if frozen := Frozen(config.optim.groups, params, objective.followed):
            params, variables = frozen.kept(state.params, params), frozen.kept_state(state.collections, variables)
        step = state.step + 1
        new_state = TrainState(
            step=step,
            params=params,
            collections=variables,
            opt_state=opt_state,
            ema=None if state.ema is None else average(state.ema, params, step, config.optim.ema),
        )
        return new_state, {**numbers, 'grad_norm': optax.tree.norm(grads)}

    return train_step


def sound(state: TrainState) -> tuple[Array, Array]:
    """Whether all numbers of a state are finite, and the largest absolute value of a parameter; to be jitted."""
    floating = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in floating]).all()
    largest = [jnp.abs(leaf).max(initial=0).astype(jnp.float32) for leaf in jax.tree.leaves((state.params, state.ema))]
    return finite, jnp.stack(largest).max()


def held_out_metrics(
    objective: Objective, model: nn.Module, scale: Scale, variables: Variables, batch: Batch, progress: Array | float
) -> Metrics:
    """The metrics `[b]` of a batch as it is stored, with the same draws at every look."""
    prepared = objective.prepare(model, batch, jax.random.key(PREPARE), scale, train=False)
    module = objective.module(model, scale)
    _, (metrics, _) = objective.loss(module, variables, prepared, jax.random.key(0), False, progress)
    return metrics


def make_eval_step(
    objective: Objective, model: nn.Module, scale: Scale, config: Config
) -> Callable[[TrainState, Batch], tuple[Metrics, Array]]:
    """Sums of the metrics over the rows that count, and how many count; to be jitted."""

    def eval_step(state: TrainState, batch: Batch) -> tuple[Metrics, Array]:
        metrics = held_out_metrics(objective, model, scale, state.evaluated, batch, state.step / config.steps)
        weight = batch['weight']
        return {name: (value * weight).sum() for name, value in metrics.items()}, weight.sum()

    return eval_step

"""The optimizer: clipping, AdamW, the learning rate over time, and which parameters decay."""

import re

import jax
import jax.numpy as jnp
import optax
from jax import Array

from train.config import Optim
from train.errors import UserError


def schedule(config: Optim, steps: int) -> optax.Schedule:
    """Learning rate by step: from zero up, then half a cosine down to zero."""
    warmup = round(config.warmup * steps)
    return optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, steps)


def optimizer(config: Optim, steps: int, params) -> optax.GradientTransformation:
    """Clipping by the global norm, then AdamW."""
    adamw = optax.adamw(
        schedule(config, steps),
        b1=config.beta1,
        b2=config.beta2,
        weight_decay=config.weight_decay,
        mask=decays(config.decay, params),
    )
    return optax.chain(optax.clip_by_global_norm(config.clip), adamw) if config.clip else adamw


def decays(patterns: tuple[str, ...], params) -> dict:
    """Tree of bools: which parameters decay. By name, since with scanned blocks even a bias is a matrix."""
    matches = {}
    for pattern in patterns:
        try:
            matches[pattern] = [path for path in paths(params) if re.fullmatch(pattern, path)]
        except re.error as error:
            raise UserError(f'optim.decay={pattern!r} is not a regular expression: {error}') from error
        if not matches[pattern]:
            raise UserError(f'optim.decay={pattern!r} matches no parameter; their paths are like {paths(params)[-1]!r}')
    chosen = {path for found in matches.values() for path in found}
    return jax.tree.unflatten(jax.tree.structure(params), [path in chosen for path in paths(params)])


def paths(tree) -> list[str]:
    """Slash-joined names of the leaves, such as `transformer/block_3/attention/to_qkv/kernel`."""
    return [jax.tree_util.keystr(path, simple=True, separator='/') for path, _ in jax.tree.leaves_with_path(tree)]


def average(ema, params, step: Array | int, memory: float):
    """The running average of the parameters after `step` updates; young averages forget faster."""
    keep = jnp.minimum(memory, (1 + step) / (10 + step))
    return jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, ema, params)

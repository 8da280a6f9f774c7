"""The optimizer: by name, over time, and which parameters it treats how."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from train.config import Optim
from train.errors import UserError

Params = Any

# Where blocks are scanned, their parameters have the layers as their first axis.
STACKED = re.compile(r'(^|/)block/')


def schedule(config: Optim, steps: int) -> optax.Schedule:
    """Learning rate by step: from zero up, then as named, and at the end the cooldown."""
    warmup, cooldown = round(config.warmup * steps), round(config.cooldown * steps)
    high, rest = config.learning_rate, max(steps - warmup, 1)
    after: optax.Schedule
    if config.schedule == 'cosine':
        after = optax.cosine_decay_schedule(high, rest, config.floor)
    elif config.schedule == 'linear':
        after = optax.linear_schedule(high, config.floor * high, rest)
    elif config.schedule == 'rsqrt':
        scale = max(warmup, 1)

        def after(step):
            return high * jnp.sqrt(scale / (scale + jnp.maximum(step, 0)))
    else:
        after = optax.constant_schedule(high)
    whole = optax.join_schedules([optax.linear_schedule(0.0, high, warmup), after], [warmup]) if warmup else after
    if not cooldown:
        return whole
    return lambda step: whole(step) * jnp.clip((steps - step) / cooldown, 0.0, 1.0)


def _weight_decay(config: Optim, steps: int) -> float | optax.Schedule:
    start, end = config.weight_decay, config.weight_decay_end
    if end is None:
        return start
    return lambda step: end + (start - end) * (1 + jnp.cos(jnp.pi * step / steps)) / 2


def optimizer(
    config: Optim, steps: int, params: Params, depths: Mapping[str, np.ndarray] | None = None
) -> optax.GradientTransformation:
    """Clipping by the global norm, the named rule, decoupled weight decay, and the learning rate.

    Args:
      config: the options.
      steps: of the whole run.
      params: shapes suffice.
      depths: how deep in the network each parameter is, see `train.layers`; for Muon and layer-wise decay.

    Raises:
      UserError: a pattern is wrong or matches nothing, or a parameter is in no group.
    """
    group_of = assign(config.groups, params)
    if set(group_of.values()) == {'frozen'}:
        raise UserError('optim.groups freezes every parameter: leave some to train')
    amount = _weight_decay(config, steps)
    decay = optax.add_decayed_weights(amount, _by_path(lambda path, _: group_of[path] == 'decay'))
    parts = [optax.clip_by_global_norm(config.clip)] if config.clip else []
    if config.name == 'lamb':
        # The trust ratio is that of the update with the decay in it.
        adam = optax.scale_by_adam(config.beta1, config.beta2, eps=1e-6, mu_dtype=_moment(config))
        decayed = optax.chain(adam, decay)
        parts += [decayed, _layer_by_layer(optax.scale_by_trust_ratio(), params)]
    else:
        parts += [_rule(config, params, depths), decay]
    parts.append(optax.scale_by_learning_rate(schedule(config, steps)))
    if config.layer_decay < 1:
        parts.append(_slower_below(config.layer_decay, _needed(depths)))
    tx = optax.chain(*parts)
    if 'frozen' not in group_of.values():
        return tx
    labels = _by_path(lambda path, _: 'frozen' if group_of[path] == 'frozen' else 'trained')
    return optax.partition({'trained': tx, 'frozen': optax.set_to_zero()}, labels)


def _rule(config: Optim, params: Params, depths: Mapping[str, np.ndarray] | None) -> optax.GradientTransformation:
    """What makes an update of a gradient, before decay and learning rate."""
    moment = _moment(config)
    adam = optax.scale_by_adam(config.beta1, config.beta2, mu_dtype=moment)
    if config.name == 'adamw':
        return adam
    if config.name == 'lion':
        return optax.scale_by_lion(config.beta1, config.beta2, mu_dtype=moment)
    if config.name == 'sgd':
        return optax.trace(config.beta1, nesterov=True, accumulator_dtype=moment)
    if config.name == 'adafactor':
        # As for ViT-G: no scaling by the size of the parameters, a cap on the memory, momentum.
        factored = optax.scale_by_factored_rms(decay_rate_fn=lambda step, _: _capped(step, config.beta2))
        clipped = optax.chain(factored, optax.clip_by_block_rms(1.0))
        return optax.chain(
            _layer_by_layer(clipped, params), optax.ema(config.beta1, debias=False, accumulator_dtype=moment)
        )
    depths = _needed(depths)
    deepest = max(int(depth.max()) for depth in depths.values())

    def kind(path: str, leaf) -> str:
        inside = depths[path].min() > 0 and depths[path].max() < deepest
        return 'matrix' if inside and _is_matrix(path, leaf) else 'rest'

    return optax.partition({'matrix': _layer_by_layer(_muon(config), params), 'rest': adam}, _by_path(kind))


def _moment(config: Optim) -> Any:
    """Dtype of the first moment; None is that of the parameters."""
    return None if config.moment_dtype == 'float32' else jnp.dtype(config.moment_dtype)


def _capped(step: Array, beta2: float) -> Array:
    return jnp.minimum(beta2, 1 - (step + 1.0) ** -0.8)


def _muon(config: Optim) -> optax.GradientTransformation:
    """Muon, with updates as large as AdamW's (arXiv:2502.16982), so that the same learning rate and decay fit both."""

    def numbers(tree: Params) -> Params:
        # All axes of a filter but the last are inputs.
        return jax.tree.map(lambda x: MuonDimensionNumbers(tuple(range(x.ndim - 1)), x.ndim - 1), tree)

    def resized(updates: Params, _) -> Params:
        return jax.tree.map(lambda x: 0.2 * math.sqrt(max(x.size // x.shape[-1], x.shape[-1])) * x, updates)

    return optax.chain(
        scale_by_muon(beta=config.beta1, weight_dimension_numbers=numbers, mu_dtype=_moment(config)),
        optax.stateless(resized),
    )


def _is_matrix(path: str, leaf) -> bool:
    """Whether a parameter is a matrix or a filter; a depthwise filter, with one input channel, is neither."""
    shape = leaf.shape[1:] if STACKED.search(path) else leaf.shape
    return path.endswith('/kernel') and len(shape) >= 2 and 1 not in shape[-2:]


def _layer_by_layer(tx: optax.GradientTransformation, params: Params) -> optax.GradientTransformation:
    """For rules that look at a parameter as a whole: where layers are scanned, each layer's part is such a whole."""
    stacked = {leaf.shape[0] for path, leaf in zip(paths(params), jax.tree.leaves(params), strict=True)
               if STACKED.search(path)}  # fmt: skip
    if not stacked:
        return tx
    vmapped = optax.GradientTransformation(jax.vmap(tx.init), jax.vmap(tx.update))
    transforms = {'alone': tx, **{f'layers_{length}': vmapped for length in stacked}}
    return optax.partition(
        transforms, _by_path(lambda path, leaf: f'layers_{leaf.shape[0]}' if STACKED.search(path) else 'alone')
    )


def _slower_below(decay: float, depths: Mapping[str, np.ndarray]) -> optax.GradientTransformation:
    """Layer-wise learning rates: every block's updates are `decay` times those of the block above."""
    deepest = max(int(depth.max()) for depth in depths.values())

    def scaled(updates: Params, _) -> Params:
        def scale(path, leaf):
            factor = np.asarray(decay ** (deepest - depths[path]), np.float32)
            return leaf * factor.reshape(factor.shape + (1,) * (leaf.ndim - factor.ndim)).astype(leaf.dtype)

        return _by_path(scale)(updates)

    return optax.stateless(scaled)


def _needed(depths: Mapping[str, np.ndarray] | None) -> Mapping[str, np.ndarray]:
    if depths is None:
        raise TypeError('this optimizer needs to know how deep each parameter is: give it train.layers.depths(...)')
    return depths


def assign(groups: Sequence[tuple[str, str]], params: Params) -> dict[str, str]:
    """Parameter path -> its group. By name, since with scanned blocks even a bias is a matrix.

    Raises:
      UserError: a pattern is no regular expression or decides nothing, or a parameter has no group.
    """
    found: dict[str, str] = {}
    for pattern, group in groups:
        try:
            matched = [path for path in paths(params) if re.fullmatch(pattern, path)]
        except re.error as error:
            raise UserError(f'optim.groups: {pattern!r} is not a regular expression: {error}') from error
        if not matched:
            raise UserError(f'optim.groups: {pattern!r} matches no parameter; paths are like {paths(params)[-1]!r}')
        for path in matched:
            found.setdefault(path, group)
    if left := [path for path in paths(params) if path not in found]:
        raise UserError(f'optim.groups covers all parameters but {", ".join(left[:5])}: end it with .* plain')
    return found


def paths(tree) -> list[str]:
    """Slash-joined names of the leaves, such as `transformer/block_3/attention/to_qkv/kernel`."""
    return [_joined(path) for path, _ in jax.tree.leaves_with_path(tree)]


def _by_path(function: Callable[[str, Any], Any]) -> Callable[[Params], Params]:
    """A function of path and leaf as a function of whole trees."""
    return lambda tree: jax.tree.map_with_path(lambda path, leaf: function(_joined(path), leaf), tree)


def _joined(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator='/')


def average(ema, params, step: Array | int, memory: float):
    """The running average of the parameters after `step` updates; young averages forget faster."""
    keep = jnp.minimum(memory, (1 + step) / (10 + step))
    # In this form what does not move stays what it is, to the bit.
    return jax.tree.map(lambda old, new: new + keep * (old - new), ema, params)

"""LayerScale of CaiT (arXiv:2103.17239): each residual branch ends in a learned factor for each channel."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from vit_flax.blocks.module import Module
from vit_flax.blocks.precision import multiply


def paper_layer_scale(layer: Array) -> Array:
    """Initial factors of the block with this index, counted from 0: 0.1, from 18 on 1e-5, from 24 on 1e-6."""
    return jnp.where(layer < 18, 0.1, jnp.where(layer < 24, 1e-5, 1e-6))


class LayerScale(Module):
    """A learned factor for each channel, `[... d] -> [... d]`.

    Attributes:
      start: index of a block to the initial factor.
    """

    start: Callable[[Array], Array | float]

    @nn.compact
    def __call__(self, x: Array, layer: Array) -> Array:
        def init(key, shape, dtype):
            return jnp.full(shape, self.start(layer), dtype)

        x, scale = self.promote(x, self.param('scale', init, x.shape[-1:], self.param_dtype))
        return multiply(x, scale)

    torch_names = {'scale': 'scale'}


class LayerScaleBlock(Module):
    """Attention, to a context if there is one, and feed-forward, each scaled and residual."""

    attention: Callable[..., nn.Module]
    feedforward: Callable[..., nn.Module]
    layer_scale: Callable[..., nn.Module]

    @nn.compact
    def __call__(
        self, x: Array, *context: Array, layer: Array, keep: bool | Array = True, train: bool = False
    ) -> Array:
        """Args: x `[b m d]`; context `[b n d]`; layer: index of the block; keep: False leaves x alone."""
        before = x
        y = self.attention(name='attention')(x, *context, train=train)
        x = x + self.layer_scale(name='attention_scale')(y, layer)
        y = self.feedforward(name='feedforward')(x, train=train)
        x = x + self.layer_scale(name='feedforward_scale')(y, layer)
        return self.tap('block', jnp.where(keep, x, before))

    torch_names = {'attention': '0.fn', 'attention_scale': '0', 'feedforward': '1.fn', 'feedforward_scale': '1'}


def draw_layers(rng: Array, depth: int, rate: float) -> Array:
    """Which of `depth` layers run, bool `[depth]`: each is dropped with probability `rate`, never all."""
    drop_rng, survivor_rng = jax.random.split(rng)
    keep = jax.random.uniform(drop_rng, (depth,)) >= rate
    survivor = jnp.arange(depth) == jax.random.randint(survivor_rng, (), 0, depth)
    return jnp.where(keep.any(), keep, survivor)


def surviving_layers(module: nn.Module, depth: int, rate: float, keep: Array | None, train: bool) -> dict[str, Any]:
    """What a `Transformer` hands to its blocks: `keep` as given, or drawn in training from the rng `drop_path`."""
    if keep is None and train and rate > 0:
        keep = draw_layers(module.make_rng('drop_path'), depth, rate)
    return {} if keep is None else {'keep': keep}

"""The feed-forward network, the block and the stack of blocks, the only place that scans and rematerialises."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from vit_flax.blocks.module import Module
from vit_flax.blocks.torch_like import Dense, LayerNorm, gelu

# What the backward pass of a trunk finds stored; the rest it computes again, block by block.
#   'none' or False   everything.
#   'dots'            what enters a block, and the products with its parameters: not the attention maps, not what is
#                     elementwise.
#   'block_inputs'    what enters a block, and what enters its feed-forward network. Both halves are computed again by
#                     themselves, but for the last product of each and, under tensor parallelism, the sum of its parts
#                     over the devices. For blocks that are a `Block`; for others the same as 'full'.
#   'full' or True    what enters a block.
Remat = bool | Literal['none', 'dots', 'block_inputs', 'full']

_POLICIES = {
    'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    'block_inputs': jax.checkpoint_policies.save_only_these_names('block_inputs'),
    'full': jax.checkpoint_policies.nothing_saveable,
}


def rematerialised(step: Callable[..., Any], remat: Remat, scan: bool) -> Callable[..., Any]:
    """The step of a trunk, a function of a bound block and its inputs, that stores what `remat` names.

    Args:
      step: to be called for each block, or scanned.
      remat: see `Remat`.
      scan: whether it is scanned.
    """
    if remat in (False, 'none'):
        return step
    policy = _POLICIES['full' if remat is True else str(remat)]
    return nn.remat(step, policy=policy, prevent_cse=not scan)


class FeedForward(Module):
    """LayerNorm, Linear, GELU, Dropout, Linear, Dropout on the last axis, `[... d] -> [... d]`.

    Attributes:
      hidden_dim: width between the two linear maps.
      norm: constructor of the norm; takes a name.
    """

    hidden_dim: int
    dropout: float = 0.0
    norm: Callable[..., Any] = LayerNorm

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dim = x.shape[-1]
        x = self.norm(**self.precision, name='norm')(x)
        x = gelu(Dense(self.hidden_dim, **self.precision, name='expand')(x))
        x = nn.Dropout(self.dropout, name='hidden_dropout')(x, deterministic=not train)
        x = Dense(dim, **self.precision, name='contract')(x)
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)

    torch_names = {'norm': 'net.0', 'expand': 'net.1', 'contract': 'net.4'}


class SimpleFeedForward(Module):
    """The same in the SimpleViT family: no dropout."""

    hidden_dim: int

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dim = x.shape[-1]
        x = LayerNorm(**self.precision, name='norm')(x)
        x = gelu(Dense(self.hidden_dim, **self.precision, name='expand')(x))
        return Dense(dim, **self.precision, name='contract')(x)

    torch_names = {'norm': 'net.0', 'expand': 'net.1', 'contract': 'net.3'}


# Rows for parents whose torch twin holds the feed-forward network's layers as a plain sequence.
BARE_FEEDFORWARD = {'norm': '0', 'expand': '1', 'contract': '4'}
BARE_SIMPLE_FEEDFORWARD = {'norm': '0', 'expand': '1', 'contract': '3'}


class Block(Module):
    """x + attention(x), then x + feedforward(x); both constructors take a name.

    Whatever else the block is called with (masks, positions, memories) it hands to its attention.
    """

    attention: Callable[..., nn.Module]
    feedforward: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Array, *context: Any, train: bool = False, **per_layer: Any) -> Array:
        x = x + self.attention(name='attention')(x, *context, train=train, **per_layer)
        x = checkpoint_name(x, 'block_inputs')
        x = x + self.feedforward(name='feedforward')(x, train=train)
        return self.tap('block', x)

    torch_names = {'attention': '0', 'feedforward': '1'}


def check_layout(trunk: nn.Module, scan: bool) -> None:
    """Raises if the variables of a trunk are those of the other setting of `scan`."""
    if scan and trunk.has_variable('params', 'block_0'):
        raise ValueError(
            'scan=True wants the layers stacked, the variables hold them one by one (block_0, block_1, ...): '
            'vit_flax.stack_layers(model, variables) stacks them'
        )
    if not scan and trunk.has_variable('params', 'block'):
        raise ValueError(
            'scan=False wants the layers one by one (block_0, block_1, ...), the variables hold them stacked: '
            'vit_flax.unstack_layers(model, variables) takes them apart'
        )


class Transformer(Module):
    """`depth` blocks in a row, then a norm.

    Attributes:
      block: constructor of a block; takes a name. A block is called as
        `block(x, *context, train=..., **per_layer)` and returns x.
      norm: constructor of the norm after the last block; None for the models without one.
      scan: one traced block for all layers, with parameters stacked along a leading axis under
        `block` instead of `block_0`, `block_1`, ...: compiles in constant time. A seed draws other
        initial values in this layout.
      remat: what is computed again in the backward pass, see `Remat`. Saves memory on a CPU only together with `scan`.
    """

    depth: int
    block: Callable[..., nn.Module]
    norm: Callable[..., nn.Module] | None = None
    scan: bool = False
    remat: Remat = False

    @nn.compact
    def __call__(
        self, x: Array, *context: Any, train: bool = False, return_hiddens: bool = False, **per_layer: Any
    ) -> Any:
        """Runs the blocks.

        Args:
          x: the residual stream, `[b n d]` or whatever the blocks map to itself.
          *context: handed to every block.
          train: handed to every block.
          return_hiddens: return what entered each block too, `[depth b n d]`.
          **per_layer: arrays with a leading axis of `depth`; block i gets row i.
        """

        def step(block: nn.Module, x, row):
            return block(x, *context, train=train, **row), x if return_hiddens else None

        check_layout(self, self.scan)
        step = rematerialised(step, self.remat, self.scan)
        if self.scan and self.depth > 0:
            step = nn.scan(step, variable_axes={True: 0}, split_rngs={True: True}, length=self.depth)
            x, hiddens = step(self.block(name='block'), x, per_layer)
        else:
            entered = []
            for i in range(self.depth):
                row = jax.tree.map(lambda values, i=i: values[i], per_layer)
                x, hidden = step(self.block(name=f'block_{i}'), x, row)
                entered.append(hidden)
            hiddens = None
            if return_hiddens:
                hiddens = jnp.stack(entered) if entered else jnp.zeros((0, *x.shape), x.dtype)
        x = x if self.norm is None else self.norm(name='norm')(x)
        return (x, hiddens) if return_hiddens else x

    torch_names = {'block_{i}': 'layers.{i}'}

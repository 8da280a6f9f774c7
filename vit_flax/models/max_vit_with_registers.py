"""Vision Transformers Need Registers, arXiv:2309.16588, in MaxViT, arXiv:2204.01697.

vit-pytorch's `max_vit_with_registers`: MaxViT whose windows each begin with a few learned tokens
that belong to no position. The average of what they became in all windows begins each grid, and after
it they are thrown away.
"""

import dataclasses
from functools import partial

import jax.numpy as jnp
import numpy as np
from einops import reduce
from flax import linen as nn
from jax import Array
from jax.nn.initializers import normal

from vit_flax.blocks.module import Module
from vit_flax.blocks.position_tables import PositionTable
from vit_flax.blocks.precision import repeat
from vit_flax.blocks.transformer import BARE_FEEDFORWARD, FeedForward
from vit_flax.blocks.windows import RelativePositionBias, check_windows, from_grids, from_windows, to_grids, to_windows
from vit_flax.card import ModelCard
from vit_flax.models import max_vit


class RegisterBias(RelativePositionBias):
    """The bias of a window behind registers; one row serves all pairs with a register."""

    registers: int = 1

    @property
    def rows(self) -> int:
        return super().rows + 1

    def position_tables(self) -> dict[str, PositionTable]:
        (table,) = super().position_tables().values()
        return {'embedding': dataclasses.replace(table, suffix=1)}

    def index(self) -> np.ndarray:
        return np.pad(super().index(), ((self.registers, 0), (self.registers, 0)), constant_values=self.rows - 1)


class Attention(max_vit.Attention):
    """Self-attention over registers and a window, `[b n d] -> [b n d]`."""

    registers: int = 1

    def bias(self, heads: int) -> Module:
        return RegisterBias(self.window_size, heads, self.registers, **self.precision, name='rel_pos_bias')


class MaxViTBlock(max_vit.ConvBlock):
    """Convolutions, attention inside windows and inside grids, each with registers, `[b h w c] -> [b h' w' dim]`."""

    registers: int = 4

    @nn.compact
    def __call__(self, x: Array, train: bool = False, keep: Array | None = None) -> Array:
        attention = partial(Attention, self.window_size, self.dim_head, self.dropout, self.registers, **self.precision)
        feedforward = partial(FeedForward, 4 * self.dim, self.dropout, **self.precision)
        x = self.convolve(x, train, keep)
        batch = x.shape[0]
        windows = check_windows(x, self.window_size)
        count = windows[0] * windows[1]

        tokens = self.param('register_tokens', normal(1.0), (self.registers, self.dim), self.param_dtype)
        x = to_windows(x, self.window_size)
        x = jnp.concatenate(self.promote(repeat(tokens, 'r d -> b r d', b=batch * count), x), axis=1)
        x = x + attention(name='block_attention')(x, train)
        x = x + feedforward(name='block_feedforward')(x, train)
        tokens, x = jnp.split(x, [self.registers], axis=1)

        tokens = reduce(tokens, '(b windows) r d -> b r d', 'mean', windows=count)
        x = to_grids(from_windows(x, self.window_size, windows), self.window_size)
        x = jnp.concatenate([repeat(tokens, 'b r d -> (b windows) r d', windows=count), x], axis=1)
        x = (x + attention(name='grid_attention')(x, train))[:, self.registers :]
        x = x + feedforward(name='grid_feedforward')(x, train)
        return self.tap('block', from_grids(x, self.window_size, windows))

    torch_names = {
        'block_attention': '1.0',
        'block_feedforward': ('1.1', BARE_FEEDFORWARD),
        'grid_attention': '2.0',
        'grid_feedforward': ('2.1', BARE_FEEDFORWARD),
    }


class MaxViT(max_vit.MaxViT, kw_only=True):
    """MaxViT with registers (arXiv:2309.16588): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      num_register_tokens: registers of each window; at least one.
    """

    num_register_tokens: int = 4

    def setup(self) -> None:
        if self.num_register_tokens < 1:
            raise ValueError(
                f'num_register_tokens={self.num_register_tokens} must be at least 1: without registers it is max_vit'
            )
        super().setup()

    def make_block(self, dim: int, first: bool) -> Module:
        return MaxViTBlock(registers=self.num_register_tokens, **self.block_settings(dim, first))

    torch_names = {'block_{i}/register_tokens': 'register_tokens.{i}'}


CARD = ModelCard(
    MaxViT,
    title='Vision Transformers Need Registers',
    arxiv='2309.16588',
    takes='image [b h w c]',
    paper_size=max_vit.published_size(96, 64, (2, 2, 5, 2)),
)

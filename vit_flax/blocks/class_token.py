"""A class token in front of the patches, and a learned position for every token."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax import Array
from jax.nn.initializers import normal

from vit_flax.blocks.checks import check_num_positions, warn_of_other_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.position_tables import PositionTable
from vit_flax.blocks.precision import add, repeat
from vit_flax.blocks.weight_ops import UnitAxes


class ClassTokenAndPositions(Module):
    """Class token, positions drawn from N(0, 1), dropout, `[b h w d] -> [b 1+n d]`, likewise with other axes.

    Fewer patches than those of `grid`, which `image_size` has, take the first rows of the table, as in
    vit-pytorch. Its state dict has token and table at the model itself, each with a batch axis:
    the model's row for this module is an empty name.
    """

    grid: Sequence[int]
    image_size: int | Sequence[int]
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        warn_of_other_grid(x.shape[1:-1], self.grid, f'image_size={self.image_size}')
        x = rearrange(x, 'b ... d -> b (...) d')
        (batch, patches, dim), room = x.shape, math.prod(self.grid)
        cls = self.param('cls_token', normal(1.0), (1, dim), self.param_dtype)
        table = self.param('pos_embedding', normal(1.0), (1 + room, dim), self.param_dtype)
        check_num_positions(patches, room, f'image_size={self.image_size}')
        x, cls, table = self.promote(x, cls, table)
        x = add(jnp.concatenate([repeat(cls, '1 d -> b 1 d', b=batch), x], axis=1), table[: 1 + patches])
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)

    def position_tables(self) -> dict[str, PositionTable]:
        return {'pos_embedding': PositionTable(tuple(self.grid), 1)}

    torch_names = {'cls_token': ('cls_token', UnitAxes((0,))), 'pos_embedding': ('pos_embedding', UnitAxes((0,)))}

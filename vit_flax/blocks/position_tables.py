"""Learned tables of positions: which grid each row of one belongs to, and how a table is moved to another grid."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from vit_flax.blocks.module import Module, example_inputs
from vit_flax.blocks.positions import Resampling, geometric_matrix, resampling_matrix, resize_axes
from vit_flax.taps import Call, watch

# timm's, of positions; and of relative offsets, where zero and the largest offset stay.
OF_POSITIONS, OF_OFFSETS = Resampling(antialias=True), Resampling(align_corners=True)


@dataclass(frozen=True)
class PositionTable:
    """What the rows of a parameter are positions of; a module states it of its own in `position_tables`.

    Attributes:
      grid: rows of the table along each axis, the first axis outermost.
      prefix, suffix: rows before and behind them that have no position, such as that of a class token.
      offsets: the rows are relative offsets in ascending order.
      two_sided: of these, negative ones too, zero in the middle.
      channels: axes of the parameter behind the rows.
    """

    grid: tuple[int, ...]
    prefix: int = 0
    suffix: int = 0
    offsets: bool = False
    two_sided: bool = False
    channels: int = 1

    @property
    def rows(self) -> int:
        return self.prefix + math.prod(self.grid) + self.suffix

    def move(self, table: Array | np.ndarray, new: 'PositionTable', resampling: Resampling = OF_POSITIONS) -> Array:
        """The table interpolated to another grid, equal to PyTorch.

        Args:
          table: of this grid; axes in front of the rows, such as those of stacked layers, are kept.
          new: of the same kind.
          resampling: of positions; of offsets by its `offsets`, which are bicubic with `align_corners=True` if
            'aligned', so that zero and the largest offset stay.

        Returns:
          The table of the new grid, in the same dtype.

        Raises:
          ValueError: it has not the rows of this grid, or the new one is of another kind.
        """
        kinds = [(each.prefix, each.suffix, each.offsets, each.channels, len(each.grid)) for each in (self, new)]
        shape = np.shape(table)
        split = len(shape) - self.channels
        lead, rest = divmod(math.prod(shape[:split]), self.rows)
        if kinds[0] != kinds[1] or rest:
            raise ValueError(f'a table of shape {shape} of {self} cannot be moved to {new}')
        if self.grid == new.grid:
            return jnp.asarray(table)
        width = math.prod(shape[split:])
        ends = [self.prefix, self.rows - self.suffix]
        prefix, positions, suffix = jnp.split(jnp.asarray(table).reshape(lead, self.rows, width), ends, axis=1)
        positions = positions.reshape(lead, *self.grid, width)
        positions = resize_axes(positions, 1, new.grid, self._matrix_of(resampling))
        moved = jnp.concatenate([prefix, positions.reshape(lead, math.prod(new.grid), width), suffix], axis=1)
        return moved.reshape(self._shape(shape, split, new))

    def _matrix_of(self, resampling: Resampling) -> Callable[[int, int], np.ndarray]:
        if self.offsets and resampling.offsets == 'geometric' and self.two_sided:
            return geometric_matrix
        if self.offsets:
            resampling = Resampling('bilinear') if resampling.offsets == 'bilinear' else OF_OFFSETS
        return partial(resampling_matrix, resampling=resampling)

    def _shape(self, shape: tuple[int, ...], split: int, new: 'PositionTable') -> tuple[int, ...]:
        """Of the moved table. Rows may have several axes, as in a table of time steps by positions."""
        first, count = split, 1
        while count < self.rows:
            first -= 1
            count *= shape[first]
        inner = math.prod(new.grid) // new.grid[0] if split - first > 1 else new.rows
        of_rows = (new.grid[0], inner) if split - first > 1 else (new.rows,)
        return (*shape[:first], *of_rows, *shape[split:])


def position_tables(model: nn.Module, *example_inputs_: Any) -> dict[str, PositionTable]:
    """All position tables of a model, by path in `params` such as `positions/pos_embedding`.

    Args:
      model: the model.
      *example_inputs_: inputs, or `jax.ShapeDtypeStruct`s, to trace it with; its own `example_input()` if left out.
    """
    found: dict[str, PositionTable] = {}
    asked: set[tuple[str, ...]] = set()

    def ask(call: Call) -> None:
        # what a module is asked it may answer by methods of its own, which come here too
        if isinstance(call.module, Module) and call.path not in asked:
            asked.add(call.path)
            for name, table in call.module.position_tables().items():
                # a parent declares first, and may know more of a child's table than the child
                found.setdefault('/'.join((*call.path, name)), table)

    with watch(before=ask):
        jax.eval_shape(
            lambda *inputs: model.init(jax.random.key(0), *inputs), *(example_inputs_ or example_inputs(model))
        )
    return found

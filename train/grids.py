"""Which token belongs to which place of an image."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from vit_flax.blocks.checks import pair
from vit_flax.models.simple_vit import SimpleGridViTBase


@dataclass(frozen=True)
class TokenGrid:
    """Tokens: first `prefix` without a place, then the patches, row by row, then perhaps others without a place."""

    prefix: int
    rows: int
    columns: int

    def of(self, attention: np.ndarray) -> np.ndarray:
        """Attention `[m n]` of the token that is classified, or of all patches together, to each patch."""
        patches = slice(self.prefix, self.prefix + self.rows * self.columns)
        asked = attention[0] if self.prefix or len(attention) == 1 else attention[patches].mean(0)
        return asked[patches].reshape(self.rows, self.columns)


def token_grid(tokens: int, size: tuple[int, int], model: Any) -> TokenGrid | None:
    """The grid that a model's tokens stand for; None if they are no grid.

    A model that says the size of its patches has that grid, and what is left are class token and registers. Any
    other number of tokens is taken for a grid of the image's proportions, alone or behind one class token.

    Args:
      tokens: how many.
      size: of the image, `(h, w)`.
      model: the network.
    """
    height, width = size
    if getattr(model, 'patch_size', None):
        down, across = pair(model.patch_size)
        rows, columns = height // down, width // across
        if rows * columns <= tokens < rows * columns + min(rows, columns) + 16:
            # Registers of a network without class token stand behind the patches, unless it says otherwise.
            registers = isinstance(model, SimpleGridViTBase) and hasattr(model, 'num_register_tokens')
            behind = registers and not getattr(model, 'registers_first', False)
            return TokenGrid(0 if behind else tokens - rows * columns, rows, columns)
    for prefix in (0, 1):
        grid = proportional(tokens - prefix, size)
        if grid is not None:
            return TokenGrid(prefix, *grid)
    return None


def proportional(places: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """Rows and columns of so many places with the proportions of an image `(h, w)`; None if there are none."""
    height, width = size
    rows = round(math.sqrt(max(places, 0) * height / width))
    if not rows or places % rows:
        return None
    columns = places // rows
    return (rows, columns) if abs(columns * height - rows * width) < max(height, width) else None

"""Attention on the grid of patches that it is paid to."""

from collections.abc import Sequence

import numpy as np

from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.grids import TokenGrid


def token_grid(num_tokens: int, size: Sequence[int], model: Backbone) -> TokenGrid | None:
    """The grid of a model's tokens that there are `num_tokens` of; None if there is none, as for windows.

    Args:
      num_tokens: keys of an attention map.
      size: of the image, `(h, w)`.
      model: the network.
    """
    return next((grid for grid in model.token_grids(size) if grid.num_tokens == num_tokens), None)


def on_grid(attention: np.ndarray, tokens: TokenGrid) -> np.ndarray:
    """Attention `[m n]` of the class token, or of all patches on average, to each patch, `[rows columns]`."""
    patches = slice(tokens.prefix, attention.shape[-1] - tokens.suffix)
    from_class_token = tokens.prefix or len(attention) == 1
    paid = attention[0] if from_class_token else attention[patches].mean(0)
    return paid[patches].reshape(tokens.shape)

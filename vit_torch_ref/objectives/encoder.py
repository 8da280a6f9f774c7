"""What the objectives of masked images read of an encoder, whichever of upstream's two shapes its parameters have."""

import torch
from torch import Tensor, nn


def prefix_positions(encoder: nn.Module) -> int:
    """Rows of the encoder's table before those of the patches."""
    return int(hasattr(encoder, 'cls_token') and encoder.cls_token.numel() > 0)


def position_table(encoder: nn.Module) -> Tensor:
    """`[prefix+n d]`."""
    # upstream: positions and class token of its own ViT have lost their batch axis, which its MAE, SimMIM and MPP
    # still index: they raise an error with it. Here both shapes are taken.
    table = encoder.pos_embedding if hasattr(encoder, 'pos_embedding') else encoder.positions
    return table.reshape(-1, table.shape[-1])


def patch_positions(encoder: nn.Module, patches: int) -> Tensor:
    """`[n d]`."""
    first = prefix_positions(encoder)
    return position_table(encoder)[first : first + patches]


def prefix_tokens(encoder: nn.Module, batch: int) -> Tensor:
    """Class token with its position, `[b m d]`, m may be 0."""
    count, table = prefix_positions(encoder), position_table(encoder)
    if not count:
        return table.new_zeros(batch, 0, table.shape[-1])
    tokens = encoder.cls_token.reshape(-1, table.shape[-1]) + table[:count]
    return tokens.expand(batch, -1, -1)


def take(x: Tensor, indices: Tensor) -> Tensor:
    """`[b n d], [b m] -> [b m d]`."""
    return torch.take_along_dim(x, indices[..., None], dim=1)

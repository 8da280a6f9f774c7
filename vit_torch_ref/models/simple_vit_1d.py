"""Better plain ViT baselines for ImageNet-1k, arXiv:2205.01580, for series; upstream module `simple_vit_1d`."""

import torch
from torch import Tensor, nn

from vit_torch_ref.blocks import Transformer
from vit_torch_ref.models.simple_vit import Attention, FeedForward
from vit_torch_ref.models.vit_1d import series_patches


def sincos_1d(n: int, dim: int) -> Tensor:
    """Sines before cosines, `[n, dim]`."""
    # upstream: the position table is computed in float32, whose sines differ between builds of torch.
    frequencies = 10000.0 ** -torch.linspace(0, 1, dim // 2, dtype=torch.float64)
    angles = torch.outer(torch.arange(n).double(), frequencies)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class SimpleViT(nn.Module):
    def __init__(self, *, dim, depth, heads, dim_head=64, mlp_dim, seq_len, patch_size, channels=3, num_classes):
        super().__init__()
        self.to_patch_embedding = series_patches(patch_size, channels, dim)
        self.transformer = Transformer(
            depth, lambda: Attention(dim, heads, dim_head), lambda: FeedForward(dim, mlp_dim), dim=dim
        )
        self.linear_head = nn.Linear(dim, num_classes)

    def forward(self, series: Tensor) -> Tensor:
        x = self.to_patch_embedding(series)
        x = self.transformer(x + sincos_1d(*x.shape[1:]).to(x))
        return self.linear_head(x.mean(dim=1))

"""LocalViT, arXiv:2104.05707; upstream module `local_vit`."""

import torch
from einops import rearrange
from torch import Tensor, nn

from vit_torch_ref.blocks import Attention, pair
from vit_torch_ref.models.vit import HeadNormViT


class Wrapped(nn.Module):
    """A name in the state dict."""

    def __init__(self, fn):
        super().__init__()
        self.fn = fn


class ProjectedAttention(Attention):
    def __init__(self, dim, heads, dim_head, dropout):
        super().__init__(dim, heads, dim_head, dropout)
        self.to_out = nn.Sequential(nn.Linear(heads * dim_head, dim), nn.Dropout(dropout))


class Depthwise(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(dim, dim, 3, groups=dim, padding=1), nn.Conv2d(dim, dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class LocalFeedForward(nn.Module):
    def __init__(self, dim, hidden_dim, dropout):
        super().__init__()
        norm, expand, contract = nn.LayerNorm(dim), nn.Conv2d(dim, hidden_dim, 1), nn.Conv2d(hidden_dim, dim, 1)
        hidden = expand, nn.Hardswish(), Depthwise(hidden_dim), nn.Hardswish(), nn.Dropout(dropout)
        self.net = nn.Sequential(norm, *hidden, contract, nn.Dropout(dropout))

    def forward(self, x: Tensor, rows: int) -> Tensor:
        # as vit_flax: the norm is over the channels
        x = rearrange(self.net[0](x), 'b (h w) d -> b d h w', h=rows)
        return rearrange(self.net[1:](x), 'b d h w -> b (h w) d')


class LocalTransformer(nn.Module):
    def __init__(self, blocks):
        super().__init__()
        self.layers = nn.ModuleList(blocks)

    def forward(self, x: Tensor, rows: int) -> Tensor:
        for attention, feedforward in self.layers:
            x = x + attention.fn(x)
            x = torch.cat([x[:, :1], x[:, 1:] + feedforward.fn.fn(x[:, 1:], rows)], dim=1)
        return x


class LocalViT(HeadNormViT):
    def __init__(self, *, patch_size, **kwargs):
        super().__init__(patch_size=patch_size, **kwargs)
        self.patch_height, _ = pair(patch_size)

    def trunk(self, dim, depth, heads, dim_head, mlp_dim, dropout):
        return LocalTransformer(
            nn.ModuleList(
                [
                    Wrapped(ProjectedAttention(dim, heads, dim_head, dropout)),
                    Wrapped(Wrapped(LocalFeedForward(dim, mlp_dim, dropout))),
                ]
            )
            for _ in range(depth)
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.transformer(self.embed(images), images.shape[2] // self.patch_height)
        return self.mlp_head(x[:, 0])

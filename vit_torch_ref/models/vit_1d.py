"""An Image is Worth 16x16 Words, arXiv:2010.11929, for series; upstream module `vit_1d`."""

import torch
from einops.layers.torch import Rearrange
from torch import Tensor, nn

from vit_torch_ref.blocks import Attention, FeedForward, Transformer


def series_patches(size: int, channels: int, dim: int) -> nn.Sequential:
    return nn.Sequential(
        Rearrange('b c (n p) -> b n (p c)', p=size),
        nn.LayerNorm(size * channels),
        nn.Linear(size * channels, dim),
        nn.LayerNorm(dim),
    )


class ViT(nn.Module):
    def __init__(
        self,
        *,
        dim,
        depth,
        heads,
        dim_head=64,
        mlp_dim,
        seq_len,
        patch_size,
        channels=3,
        num_classes,
        dropout=0.0,
        emb_dropout=0.0,
    ):
        super().__init__()
        self.to_patch_embedding = series_patches(patch_size, channels, dim)
        self.cls_token = nn.Parameter(torch.randn(dim))
        self.pos_embedding = nn.Parameter(torch.randn(1, 1 + seq_len // patch_size, dim))
        self.dropout = nn.Dropout(emb_dropout)
        self.transformer = Transformer(
            depth, lambda: Attention(dim, heads, dim_head, dropout), lambda: FeedForward(dim, mlp_dim, dropout)
        )
        self.mlp_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_classes))

    def forward(self, series: Tensor) -> Tensor:
        patches = self.to_patch_embedding(series)
        x = torch.cat([self.cls_token.expand(len(series), 1, -1), patches], dim=1)
        x = self.transformer(self.dropout(x + self.pos_embedding[:, : x.shape[1]]))
        return self.mlp_head(x[:, 0])

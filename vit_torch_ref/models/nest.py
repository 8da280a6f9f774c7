"""Nested Hierarchical Transformer, arXiv:2105.12723; upstream module `nest`."""

import torch
from einops import rearrange
from einops.layers.torch import Rearrange, Reduce
from torch import Tensor, nn

from vit_torch_ref.blocks import Transformer, pair, softmax_attention
from vit_torch_ref.models.cvt import FeedForward, LayerNorm


class Attention(nn.Module):
    def __init__(self, dim, heads, dropout):
        super().__init__()
        self.heads, self.dim_head = heads, dim // heads
        inner = heads * self.dim_head
        self.norm, self.dropout = LayerNorm(dim), nn.Dropout(dropout)
        self.to_qkv = nn.Conv2d(dim, 3 * inner, 1, bias=False)
        self.to_out = nn.Sequential(nn.Conv2d(inner, dim, 1), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.shape[2]
        q, k, v = rearrange(self.to_qkv(self.norm(x)), 'b (qkv e k) h w -> qkv b e (h w) k', qkv=3, e=self.heads)
        x = softmax_attention(q, k, v, self.dim_head**-0.5, self.dropout)
        return self.to_out(rearrange(x, 'b e (h w) k -> b (e k) h w', h=rows))


class Hierarchy(Transformer):
    def __init__(self, blocks, dim, length, depth, heads, mult, dropout, paper_positions):
        super().__init__(depth, lambda: Attention(dim, heads, dropout), lambda: FeedForward(dim, mult, dropout))
        self.blocks = blocks
        self.pos_emb = nn.Parameter(torch.randn(blocks**2, length, dim) if paper_positions else torch.randn(length))

    def forward(self, x: Tensor) -> Tensor:
        sides = dict(i=self.blocks, j=self.blocks)
        x = rearrange(x, 'b d (i h) (j w) -> b (i j) d h w', **sides)
        batch, rows, columns = len(x), *x.shape[3:]
        if self.pos_emb.ndim == 1:
            x = x + self.pos_emb[: rows * columns].unflatten(0, (rows, columns))
        else:
            x = x + rearrange(self.pos_emb[:, : rows * columns], 'blocks (h w) d -> blocks d h w', h=rows)
        x = super().forward(x.flatten(0, 1)).unflatten(0, (batch, -1))
        return rearrange(x, 'b (i j) d h w -> b d (i h) (j w)', **sides)


def aggregate(before, after):
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), LayerNorm(after), nn.MaxPool2d(3, padding=1, stride=2))


class NesT(nn.Module):
    def __init__(
        self,
        *,
        num_hierarchies,
        block_repeats,
        image_size,
        patch_size,
        dim,
        heads,
        mlp_mult=4,
        num_classes,
        dim_head=64,
        channels=3,
        dropout=0.0,
        paper_positions=False,
    ):
        super().__init__()
        (height, width), (p, q) = pair(image_size), pair(patch_size)
        last = num_hierarchies - 1
        length = (height // p >> last) * (width // q >> last)
        self.to_patch_embedding = nn.Sequential(
            Rearrange('b c (h p) (w q) -> b (p q c) h w', p=p, q=q),
            LayerNorm(p * q * channels),
            nn.Conv2d(p * q * channels, dim, 1),
            LayerNorm(dim),
        )
        depths = block_repeats if isinstance(block_repeats, tuple) else [block_repeats] * num_hierarchies
        self.layers = nn.ModuleList()
        for level, depth in enumerate(depths):
            wide, many = dim << level, heads << level
            blocks = 1 << (last - level)
            hierarchy = Hierarchy(blocks, wide, length, depth, many, mlp_mult, dropout, paper_positions)
            join = aggregate(wide, 2 * wide) if level < last else nn.Identity()
            self.layers.append(nn.ModuleList([hierarchy, join]))
        self.mlp_head = nn.Sequential(
            LayerNorm(dim << last), Reduce('b c h w -> b c', 'mean'), nn.Linear(dim << last, num_classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.to_patch_embedding(images)
        for hierarchy, join in self.layers:
            x = join(hierarchy(x))
        return self.mlp_head(x)

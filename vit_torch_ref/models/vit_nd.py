"""An Image is Worth 16x16 Words, arXiv:2010.11929, for grids of n axes; upstream module `vit_nd`."""

import math

import torch
from einops import rearrange
from einops.layers.torch import Rearrange
from torch import Tensor, nn

from vit_torch_ref.blocks import FeedForward


def lengths(value, ndim) -> tuple[int, ...]:
    return (value,) * ndim if isinstance(value, int) else tuple(value)


def nd_patches(size: tuple[int, ...], channels: int, dim: int) -> nn.Sequential:
    """`[b c *(n p)] -> [b *n d]`."""
    outer, inner = ([f'{letter}{axis}' for axis in range(len(size))] for letter in 'np')
    cut = ' '.join(f'({n} {p})' for n, p in zip(outer, inner, strict=True))
    pattern = f'b c {cut} -> b {" ".join(outer)} ({" ".join(inner)} c)'
    features = channels * math.prod(size)
    return nn.Sequential(
        Rearrange(pattern, **dict(zip(inner, size, strict=True))), nn.Linear(features, dim), nn.LayerNorm(dim)
    )


def causal_mask(grid, causal_dims, has_cls=False) -> Tensor | None:
    """True where a query (first axis) may look."""
    if causal_dims is None:
        return None
    axes = [causal_dims] if isinstance(causal_dims, int) else list(causal_dims)
    places = torch.cartesian_prod(*map(torch.arange, grid)).reshape(-1, len(grid))[:, axes]
    mask = (places[:, None] >= places[None]).all(dim=-1)
    return nn.functional.pad(mask, (1, 0, 1, 0), value=True) if has_cls else mask


def masked_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    # upstream: it takes flex attention where that is compiled, which has no backward pass on a CPU; this is the same.
    scores = q @ k.mT * scale
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return rearrange(scores.softmax(dim=-1) @ v, 'b e n k -> b n (e k)')


class Attention(nn.Module):
    def __init__(self, dim, heads, dim_head, dropout):
        super().__init__()
        inner = heads * dim_head
        self.heads, self.scale = heads, dim_head**-0.5
        self.norm, self.to_qkv = nn.LayerNorm(dim), nn.Linear(dim, 3 * inner, bias=False)
        bare = heads == 1 and dim_head == dim
        self.to_out = nn.Identity() if bare else nn.Sequential(nn.Linear(inner, dim), nn.Dropout(dropout))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = rearrange(self.to_qkv(self.norm(x)), 'b n (qkv e k) -> qkv b e n k', qkv=3, e=self.heads)
        return self.to_out(masked_attention(q, k, v, self.scale, mask))


class Transformer(nn.Module):
    """Blocks whose attention is called with more than the tokens, then a norm."""

    def __init__(self, depth, dim, attention, feedforward):
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleList([attention(), feedforward()]) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, *context) -> Tensor:
        for attention, feedforward in self.layers:
            x = x + attention(x, *context)
            x = x + feedforward(x)
        return self.norm(x)


class ViTND(nn.Module):
    def __init__(
        self,
        *,
        dim,
        depth,
        heads,
        dim_head=64,
        mlp_dim,
        ndim,
        patch_size,
        input_shape,
        channels=3,
        num_classes,
        pool='cls',
        causal_dims=None,
        emb_dropout=0.0,
        dropout=0.0,
    ):
        super().__init__()
        shape, size = lengths(input_shape, ndim), lengths(patch_size, ndim)
        self.grid = [length // part for length, part in zip(shape, size, strict=True)]
        self.pool, self.mask = pool, causal_mask(self.grid, causal_dims, has_cls=True)
        self.to_patch_embedding = nd_patches(size, channels, dim)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.pos_embedding = nn.Parameter(torch.randn(1, 1 + math.prod(self.grid), dim))
        self.dropout = nn.Dropout(emb_dropout)
        self.transformer = Transformer(
            depth, dim, lambda: Attention(dim, heads, dim_head, dropout), lambda: FeedForward(dim, mlp_dim, dropout)
        )
        self.mlp_head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor, return_nd_patches=False):
        patches = self.to_patch_embedding(x).flatten(1, -2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), patches], dim=1)
        x = self.transformer(self.dropout(x + self.pos_embedding), self.mask)
        cls, patches = x[:, 0], x[:, 1:]
        if return_nd_patches:
            return cls, patches.mT.unflatten(-1, self.grid)
        return self.mlp_head(cls if self.pool == 'cls' else patches.mean(dim=1))

"""What several models have exactly alike: the ViT's trunk, attention, feed-forward network and patch embedding."""

from collections.abc import Callable

import torch
from einops import rearrange
from einops.layers.torch import Rearrange
from torch import Tensor, nn


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, dropout: nn.Module | None = None) -> Tensor:
    """`[b e n k]`, `[b e m k]`, `[b e m k]` -> `[b e n k]`."""
    weights = torch.softmax(q @ k.mT * scale, dim=-1)
    return (weights if dropout is None else dropout(weights)) @ v


class FeedForward(nn.Module):
    def __init__(self, dim: int, hidden_dim: int, dropout: float = 0.0):
        super().__init__()
        expand, contract = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, dim)
        self.net = nn.Sequential(
            nn.LayerNorm(dim), expand, nn.GELU(), nn.Dropout(dropout), contract, nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def feed_forward(dim: int, hidden_dim: int) -> nn.Sequential:
    """The same without dropout, as upstream writes it where it is a function."""
    expand, contract = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, dim)
    return nn.Sequential(nn.LayerNorm(dim), expand, nn.GELU(), contract)


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int, dim_head: int, dropout: float = 0.0):
        super().__init__()
        inner = heads * dim_head
        self.heads, self.scale = heads, dim_head**-0.5
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.to_qkv = nn.Linear(dim, 3 * inner, bias=False)
        bare = heads == 1 and dim_head == dim
        self.to_out = nn.Identity() if bare else nn.Sequential(nn.Linear(inner, dim), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.to_qkv(self.norm(x)), 'b n (qkv e k) -> qkv b e n k', qkv=3, e=self.heads)
        x = softmax_attention(q, k, v, self.scale, self.dropout)
        return self.to_out(rearrange(x, 'b e n k -> b n (e k)'))


def patch_embedding(patch_size: tuple[int, int], channels: int, dim: int, tokens: str = '(h w)') -> nn.Sequential:
    """`[b c H W] -> [b (h w) d]`, or another arrangement of the grid."""
    p, q = patch_size
    return nn.Sequential(
        Rearrange(f'b c (h p) (w q) -> b {tokens} (p q c)', p=p, q=q),
        nn.LayerNorm(p * q * channels),
        nn.Linear(p * q * channels, dim),
        nn.LayerNorm(dim),
    )


class Transformer(nn.Module):
    """Blocks of residual branches, then a norm unless `dim` is None; the state dict has `layers.{block}.{branch}`."""

    def __init__(self, depth: int, *branches: Callable[[], nn.Module], dim: int | None = None):
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleList(branch() for branch in branches) for _ in range(depth))
        self.norm = nn.Identity() if dim is None else nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.layers:
            for branch in block:
                x = x + branch(x)
        return self.norm(x)

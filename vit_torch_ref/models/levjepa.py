"""LeVJEPA's encoder of videos, arXiv:2608.27395; upstream class `levjepa.VideoTransformer`."""

import math

import torch
from einops import rearrange
from einops.layers.torch import Rearrange
from torch import Tensor, nn

from vit_torch_ref.blocks import pair


class Rotary(nn.Module):
    def __init__(self, width, axes, max_freq):
        super().__init__()
        self.register_buffer('scales', torch.linspace(1, max_freq / 2, width // (2 * axes)))

    def forward(self, x: Tensor, along: Tensor) -> Tensor:
        """`[b e n k]` turned by places `[b n axes]`."""
        turns = torch.einsum('b n a, f -> b n a f', along, self.scales * math.pi).flatten(2)[:, None]
        turning, rest = x.split([2 * turns.shape[-1], x.shape[-1] - 2 * turns.shape[-1]], dim=-1)
        points = torch.view_as_complex(turning.unflatten(-1, (-1, 2)).contiguous())
        return torch.cat([torch.view_as_real(points * torch.exp(1j * turns)).flatten(-2), rest], dim=-1)


class Attention(nn.Module):
    def __init__(self, dim, heads, dim_head, dropout):
        super().__init__()
        self.heads, self.scale = heads, dim_head**-0.5
        self.norm = nn.RMSNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * dim_head, dim, bias=False), nn.Dropout(dropout))

    def forward(self, x: Tensor, rotary: Rotary, along: Tensor, mask: Tensor) -> Tensor:
        q, k, v = rearrange(self.to_qkv(self.norm(x)), 'b n (qkv e k) -> qkv b e n k', qkv=3, e=self.heads)
        scores = (rotary(q, along) @ rotary(k, along).mT * self.scale).masked_fill(~mask[:, None], -math.inf)
        return self.to_out(rearrange(scores.softmax(dim=-1) @ v, 'b e n k -> b n (e k)'))


class FeedForward(nn.Module):
    def __init__(self, dim, hidden, dropout):
        super().__init__()
        expand, contract = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.net = nn.Sequential(nn.RMSNorm(dim), expand, nn.GELU(), nn.Dropout(dropout), contract, nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Trunk(nn.Module):
    def __init__(self, depth, attention, feedforward):
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleList([attention(), feedforward()]) for _ in range(depth))

    def forward(self, x: Tensor, *context) -> Tensor:
        for attention, feedforward in self.layers:
            x = x + attention(x, *context)
            x = x + feedforward(x)
        return x


class PlacedTransformer(nn.Module):
    """`size` of a patch along each axis; tokens see what is not ahead of them along the axes `causal`.

    `kept_patches` are those that upstream draws for its `drop_ratio`.
    """

    def __init__(self, size, causal, channels, dim, depth, heads, mlp_dim, dim_head, dropout, emb_dropout, max_freq):
        super().__init__()
        axes = range(len(size))
        self.size, self.causal, self.dim = size, list(causal), dim
        outer, inner = ' '.join(f'n{i}' for i in axes), ' '.join(f'p{i}' for i in axes)
        cut = ' '.join(f'(n{i} p{i})' for i in axes)
        features = channels * math.prod(size)
        self.to_patch_embedding = nn.Sequential(
            Rearrange(f'b c {cut} -> b ({outer}) (c {inner})', **{f'p{i}': size[i] for i in axes}),
            nn.LayerNorm(features, bias=False),
            nn.Linear(features, dim),
            nn.LayerNorm(dim, bias=False),
        )
        self.cls_token = nn.Parameter(torch.randn(dim))
        self.rotary_emb = Rotary(dim_head, len(size), max_freq)
        self.transformer = Trunk(
            depth, lambda: Attention(dim, heads, dim_head, dropout), lambda: FeedForward(dim, mlp_dim, dropout)
        )
        self.norm, self.dropout = nn.RMSNorm(dim), nn.Dropout(emb_dropout)

    def forward(self, x: Tensor, drop_ratio=None, kept_patches: Tensor | None = None) -> Tensor:
        grid = [length // part for length, part in zip(x.shape[2:], self.size, strict=True)]
        places = torch.cartesian_prod(*map(torch.arange, grid)).reshape(-1, len(grid)).expand(len(x), -1, -1)
        tokens = self.dropout(self.to_patch_embedding(x))
        if kept_patches is not None:
            rows = torch.arange(len(x))[:, None]
            tokens, places = tokens[rows, kept_patches], places[rows, kept_patches]
        tokens = torch.cat([self.cls_token.expand(len(x), 1, -1), tokens], dim=1)
        along = nn.functional.pad(2 * places.to(x) / torch.tensor(grid).to(x) - 1, (0, 0, 1, 0))
        axes = places[..., self.causal]
        seen = (axes[:, :, None] >= axes[:, None]).all(dim=-1)
        # a patch does not see the class token, which sees all
        mask = nn.functional.pad(nn.functional.pad(seen, (1, 0), value=not self.causal), (0, 0, 1, 0), value=True)
        # upstream: `levjepa` compiles its mask, which fails on torch 2.13, and flex attention has no backward pass on a
        # CPU; here the mask is an array.
        return self.norm(self.transformer(tokens, self.rotary_emb, along, mask))


class VideoTransformer(PlacedTransformer):
    def __init__(
        self,
        *,
        image_size,
        patch_size,
        frames,
        block_causal=True,
        dim,
        depth,
        heads,
        dim_head=64,
        mlp_dim,
        channels=3,
        emb_dropout=0.0,
        dropout=0.0,
        rotary_max_freq=10.0,
    ):
        super().__init__(
            (1, *pair(patch_size)), (0,) if block_causal else (), channels, dim, depth, heads, mlp_dim, dim_head,
            dropout, emb_dropout, rotary_max_freq,
        )  # fmt: skip

"""Rotary position embedding for grids of n axes, jerryxio.ng/posts/nd-rope; upstream module `vit_nd_rotary`."""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import normalize

from vit_torch_ref.blocks import FeedForward
from vit_torch_ref.models.vit_nd import Transformer, causal_mask, lengths, masked_attention, nd_patches


def golden_gate(heads, count, axes, lowest, highest, zero_share) -> Tensor:
    """`[heads, count, axes]`."""
    ratio = torch.tensor(2.0, dtype=torch.float64)
    for _ in range(10):
        ratio = (ratio + 1).pow(1 / (axes + 1))
    steps = torch.arange(1, heads * count + 1).double()
    sequence = torch.outer(steps, ratio ** -torch.arange(1, axes + 1).double()).remainder(1)
    directions = normalize(torch.special.ndtri(sequence), dim=-1)
    zeros = round(zero_share * count)
    rates = torch.zeros(count, dtype=torch.float64)
    rates[zeros:] = lowest * (highest / lowest) ** torch.linspace(0, 1, count - zeros, dtype=torch.float64)
    return (directions.unflatten(0, (heads, count)) * rates[:, None]).float()


def angles(grid, freqs: Tensor) -> Tensor:
    """`[e, n, f]` of all places."""
    places = torch.cartesian_prod(*map(torch.arange, grid)).reshape(-1, len(grid)).to(freqs)
    return torch.einsum('n a, e f a -> e n f', places, freqs)


class Rotary(nn.Module):
    def __init__(self, freqs: Tensor):
        super().__init__()
        self.register_buffer('freqs', freqs)

    # upstream: queries and keys are rounded to float32 before they are turned; here they are not.
    def forward(self, x: Tensor, grid) -> Tensor:
        # there are no complex numbers of 16 bits
        wide, turns = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (x, angles(grid, self.freqs)))
        turned = torch.complex(*wide.chunk(2, dim=-1)) * torch.exp(1j * turns)
        return torch.cat([turned.real, turned.imag], dim=-1).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, dim, heads, dim_head, dropout, rotary=None):
        super().__init__()
        inner = heads * dim_head
        self.heads, self.scale = heads, dim_head**-0.5
        if rotary is not None:
            self.rotary_emb = rotary
        self.norm = nn.LayerNorm(dim)
        self.to_qk, self.to_v = nn.Linear(dim, 2 * inner, bias=False), nn.Linear(dim, inner, bias=False)
        bare = heads == 1 and dim_head == dim
        self.to_out = nn.Identity() if bare else nn.Sequential(nn.Linear(inner, dim), nn.Dropout(dropout))

    def place(self, q: Tensor, k: Tensor, grid) -> tuple[Tensor, Tensor]:
        return self.rotary_emb(q, grid), self.rotary_emb(k, grid)

    def forward(self, x: Tensor, grid, mask: Tensor | None) -> Tensor:
        x = self.norm(x)
        q, k = rearrange(self.to_qk(x), 'b n (qk e k) -> qk b e n k', qk=2, e=self.heads)
        v = rearrange(self.to_v(x), 'b n (e k) -> b e n k', e=self.heads)
        return self.to_out(masked_attention(*self.place(q, k, grid), v, self.scale, mask))


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
        causal_dims=None,
        emb_dropout=0.0,
        dropout=0.0,
        rope_max_freq=10000.0,
        rope_min_freq=1.0,
        rope_p_zero_freqs=0.0,
    ):
        super().__init__()
        shape, size = lengths(input_shape, ndim), lengths(patch_size, ndim)
        self.mask = causal_mask([a // b for a, b in zip(shape, size, strict=True)], causal_dims)
        self.to_patch_embedding = nd_patches(size, channels, dim)
        self.dropout = nn.Dropout(emb_dropout)
        freqs = golden_gate(heads, dim_head // 2, ndim, rope_min_freq, rope_max_freq, rope_p_zero_freqs)
        self.rotary_emb = Rotary(freqs)
        self.transformer = Transformer(
            depth,
            dim,
            lambda: Attention(dim, heads, dim_head, dropout, self.rotary_emb),
            lambda: FeedForward(dim, mlp_dim, dropout),
        )
        self.mlp_head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor, return_embed=False) -> Tensor:
        patches = self.to_patch_embedding(x)
        grid = patches.shape[1:-1]
        x = self.transformer(self.dropout(patches.flatten(1, -2)), grid, self.mask)
        return x.unflatten(1, grid) if return_embed else self.mlp_head(x.mean(dim=1))

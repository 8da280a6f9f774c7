"""Decoupling the "What" and "Where" With Polar Coordinates, arXiv:2509.10534; upstream module `vit_nd_pope`."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from vit_torch_ref.blocks import FeedForward
from vit_torch_ref.models import vit_nd_rotary
from vit_torch_ref.models.vit_nd import Transformer, causal_mask, lengths, nd_patches


class Polar(nn.Module):
    def __init__(self, freqs: Tensor, uniform):
        super().__init__()
        self.register_buffer('freqs', freqs)
        # upstream: a uniform start raises a RuntimeError, since the parameter is changed in place.
        bias = torch.rand(freqs.shape[:2]) if uniform else torch.zeros(freqs.shape[:2])
        self.learned_bias = nn.Parameter(-2 * math.pi * bias)

    # upstream: queries and keys are rounded to float32 before they become points; here they are not.
    def forward(self, q: Tensor, k: Tensor, grid) -> list[Tensor]:
        places = vit_nd_rotary.angles(grid, self.freqs)
        bias = self.learned_bias.clamp(min=-2 * math.pi, max=0)[:, None]
        points = (torch.polar(softplus(x), angle) for x, angle in ((q, places), (k, places + bias)))
        return [torch.cat([point.real, point.imag], dim=-1) for point in points]


class Attention(vit_nd_rotary.Attention):
    def place(self, q: Tensor, k: Tensor, places) -> list[Tensor]:
        polar, grid = places
        return polar(q, k, grid)


class PolarTransformer(Transformer):
    def __init__(self, polar, *args):
        super().__init__(*args)
        self.polar_emb = polar

    def forward(self, x: Tensor, grid, mask: Tensor | None) -> Tensor:
        return super().forward(x, (self.polar_emb, grid), mask)


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
        pope_max_freq=10000.0,
        pope_min_freq=1.0,
        pope_p_zero_freqs=0.0,
        pope_init_learned_bias_uniform=False,
    ):
        super().__init__()
        shape, size = lengths(input_shape, ndim), lengths(patch_size, ndim)
        self.mask = causal_mask([a // b for a, b in zip(shape, size, strict=True)], causal_dims)
        self.to_patch_embedding = nd_patches(size, channels, dim)
        self.dropout = nn.Dropout(emb_dropout)
        freqs = vit_nd_rotary.golden_gate(heads, dim_head, ndim, pope_min_freq, pope_max_freq, pope_p_zero_freqs)
        self.polar_emb = Polar(freqs, pope_init_learned_bias_uniform)
        self.transformer = PolarTransformer(
            self.polar_emb,
            depth,
            dim,
            lambda: Attention(dim, heads, dim_head, dropout),
            lambda: FeedForward(dim, mlp_dim, dropout),
        )
        self.mlp_head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor, return_embed=False) -> Tensor:
        patches = self.to_patch_embedding(x)
        grid = patches.shape[1:-1]
        x = self.transformer(self.dropout(patches.flatten(1, -2)), grid, self.mask)
        return x.unflatten(1, grid) if return_embed else self.mlp_head(x.mean(dim=1))

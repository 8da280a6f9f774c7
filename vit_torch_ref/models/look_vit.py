"""LookupViT, arXiv:2407.12753; upstream module `look_vit`."""

import torch
from einops import rearrange
from einops.layers.torch import Rearrange
from torch import Tensor, nn
from torch.nn.functional import interpolate, layer_norm

from vit_torch_ref.blocks import pair
from vit_torch_ref.models.simple_vit import sincos_2d


class LayerNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, x.shape[-1:]) * (1 + self.gamma)


def mlp(dim, factor, dropout):
    hidden = int(dim * factor)
    expand, contract = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
    return nn.Sequential(LayerNorm(dim), expand, nn.GELU(), nn.Dropout(dropout), contract, nn.Dropout(dropout))


class Attention(nn.Module):
    """With `scores` given, those are used in place of queries and keys of its own."""

    def __init__(self, dim, heads, dim_head, dropout, across=False, reuses=False):
        super().__init__()
        inner = heads * dim_head
        self.heads, self.scale = heads, dim_head**-0.5
        if not reuses:
            self.norm = LayerNorm(dim)
            self.to_q, self.to_k = nn.Linear(dim, inner, bias=False), nn.Linear(dim, inner, bias=False)
        if across:
            self.norm_context = LayerNorm(dim)
        self.to_v = nn.Linear(dim, inner, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.to_out = nn.Sequential(nn.Identity(), nn.Linear(inner, dim, bias=False), nn.Dropout(dropout))

    def forward(self, x: Tensor, context: Tensor | None = None, scores: Tensor | None = None) -> tuple[Tensor, Tensor]:
        def split(t: Tensor) -> Tensor:
            return rearrange(t, 'b n (e k) -> b e n k', e=self.heads)

        if scores is None:
            x = self.norm(x)
        seen = x if context is None else self.norm_context(context)
        if scores is None:
            scores = split(self.to_q(x)) @ split(self.to_k(seen)).mT * self.scale
        x = self.dropout(scores.softmax(dim=-1)) @ split(self.to_v(seen))
        return self.to_out(rearrange(x, 'b e n k -> b n (e k)')), scores


class LookViT(nn.Module):
    def __init__(
        self,
        *,
        dim,
        depth=3,
        heads=8,
        dim_head=64,
        cross_attn_heads=8,
        cross_attn_dim_head=64,
        mlp_factor=4,
        highres_mlp_factor=4,
        image_size,
        patch_size=16,
        highres_patch_size=12,
        patch_conv_kernel_size=7,
        channels=3,
        num_classes,
        dropout=0.1,
    ):
        super().__init__()
        (h, w), (p, q), kernel = pair(image_size), pair(highres_patch_size), patch_conv_kernel_size
        self.to_patches = nn.Sequential(
            Rearrange('b c (h p) (w q) -> b (p q c) h w', p=p, q=q),
            nn.Conv2d(p * q * channels, dim, kernel, padding=kernel // 2),
            Rearrange('b d h w -> b h w d'),
            LayerNorm(dim),
        )
        self.pos_embedding = nn.Parameter(torch.randn((h // p) * (w // q), dim))
        self.coarse = tuple(size // length for size, length in zip((h, w), pair(patch_size), strict=True))
        across = cross_attn_heads, cross_attn_dim_head, dropout
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    Attention(dim, heads, dim_head, dropout),
                    mlp(dim, mlp_factor, dropout),
                    Attention(dim, *across, across=True),
                    Attention(dim, *across, across=True, reuses=True),
                    LayerNorm(dim),
                    mlp(dim, highres_mlp_factor, dropout),
                ]
            )
            for _ in range(depth)
        )
        self.norm, self.highres_norm = LayerNorm(dim), LayerNorm(dim)
        self.to_logits = nn.Linear(dim, num_classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        fine = self.to_patches(images)
        _, rows, columns, dim = fine.shape
        # upstream: the sines of the position table are taken in float32; the learned table is never used.
        positions = sincos_2d(rows, columns, dim).unflatten(0, (rows, columns))
        fine = rearrange(fine + positions.to(fine), 'b h w d -> b d h w')
        x = interpolate(fine, self.coarse, mode='bilinear')
        x, fine = (rearrange(t, 'b d h w -> b (h w) d') for t in (x, fine))
        for attention, feedforward, lookup, back, fine_norm, fine_feedforward in self.layers:
            found, scores = lookup(x, fine)
            x = x + found
            x = x + attention(x)[0]
            x = x + feedforward(x)
            fine = fine_norm(fine + back(fine, x, scores.mT)[0])
            fine = fine + fine_feedforward(fine)
        return self.to_logits(self.norm(x).mean(dim=1) + self.highres_norm(fine).mean(dim=1))

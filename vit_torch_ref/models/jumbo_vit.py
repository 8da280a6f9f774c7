"""Jumbo class token, arXiv:2502.15021; upstream module `jumbo_vit`."""

import torch
from torch import Tensor, nn

from vit_torch_ref.blocks import feed_forward, pair, patch_embedding
from vit_torch_ref.models import simple_vit


class JumboViT(nn.Module):
    def __init__(
        self, *, dim, depth, heads, dim_head=64, mlp_dim, num_jumbo_cls=1, jumbo_cls_k=6, jumbo_ff_mult=2,
        image_size, patch_size, channels=3, num_classes,
    ):  # fmt: skip
        super().__init__()
        (h, w), (p, q) = pair(image_size), pair(patch_size)
        wide = jumbo_cls_k * dim
        self.to_patch_embedding = patch_embedding((p, q), channels, dim)
        self.positions = simple_vit.sincos_2d(h // p, w // q, dim)
        self.jumbo_cls_token = nn.Parameter(torch.zeros(num_jumbo_cls, wide))
        self.norm = nn.LayerNorm(dim)
        # the reshapes around it are upstream's members 0 and 2
        self.jumbo_ff = nn.ModuleDict({'1': feed_forward(wide, wide * int(wide * jumbo_ff_mult))})
        self.layers = nn.ModuleList(
            nn.ModuleList([simple_vit.Attention(dim, heads, dim_head), feed_forward(dim, int(dim * mlp_dim))])
            for _ in range(depth)
        )
        self.linear_head = nn.Linear(dim, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.to_patch_embedding(images)
        x = x + self.positions.to(x)
        jumbo = self.jumbo_cls_token.expand(len(x), -1, -1)
        for attention, feedforward in self.layers:
            both = torch.cat([jumbo.reshape(len(x), -1, x.shape[-1]), x], dim=1)
            both = both + attention(both)
            patches = x.shape[1]
            jumbo, x = both[:, :-patches].reshape(jumbo.shape), both[:, -patches:]
            jumbo = jumbo + self.jumbo_ff['1'](jumbo)
            x = x + feedforward(x)
        return self.linear_head(self.norm(jumbo.reshape(len(x), -1, x.shape[-1]).mean(dim=1)))

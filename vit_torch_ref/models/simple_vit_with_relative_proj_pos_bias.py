"""Projected relative position biases; upstream module `simple_vit_with_relative_proj_pos_bias`."""

import torch
from einops import rearrange
from torch import Tensor, nn

from vit_torch_ref.blocks import Transformer, pair
from vit_torch_ref.models import simple_vit


class RelativeProjPositionalBias(nn.Module):
    def __init__(self, dim, heads, num_distance_basis=16, max_dist=512, dim_pos=2):
        super().__init__()
        self.heads, self.axes, self.max_dist = heads, dim_pos, max_dist
        self.to_distance_weights = nn.Sequential(nn.Linear(dim, heads * dim_pos * num_distance_basis))
        self.distance_banks = nn.Parameter(0.02 * torch.randn(dim_pos, num_distance_basis, 2 * max_dist - 1))

    def forward(self, x: Tensor) -> Tensor:
        grid = [torch.arange(size) for size in x.shape[1:-1]]
        places = torch.cartesian_prod(*grid).reshape(-1, self.axes)
        distances = places[:, None] - places[None]
        bound = self.max_dist - 1
        weights = rearrange(
            self.to_distance_weights(x).flatten(1, -2), 'b n (w e r) -> w b e n r', w=self.axes, e=self.heads
        )
        bias = 0
        for axis in range(self.axes):
            curves = self.distance_banks[axis][:, distances[..., axis].clamp(-bound, bound) + bound]
            bias = bias + torch.einsum('b e n r, r n m -> b e n m', weights[axis], curves)
        return bias * (distances.abs() <= bound).all(dim=-1)


class Attention(simple_vit.Attention):
    def __init__(self, dim, heads, dim_head, num_distance_basis, max_dist):
        super().__init__(dim, heads, dim_head)
        self.rel_pos_bias = RelativeProjPositionalBias(dim, heads, num_distance_basis, max_dist)

    def forward(self, x: Tensor) -> Tensor:
        grid = x.shape[1:3]
        bias = self.rel_pos_bias(x)
        q, k, v = rearrange(self.to_qkv(self.norm(x)), 'b h w (qkv e k) -> qkv b e (h w) k', qkv=3, e=self.heads)
        weights = torch.softmax(q @ k.mT * self.scale + bias, dim=-1)
        return self.to_out(rearrange(weights @ v, 'b e (h w) k -> b h w (e k)', h=grid[0]))


class SimpleViT(simple_vit.SimpleViT):
    def __init__(
        self, *, num_distance_basis=16, max_dist=512, dim, depth, heads, dim_head=64, mlp_dim, image_size,
        patch_size, **kwargs,
    ):  # fmt: skip
        super().__init__(
            dim=dim, depth=0, heads=heads, dim_head=dim_head, mlp_dim=mlp_dim, image_size=image_size,
            patch_size=patch_size, **kwargs,
        )  # fmt: skip
        self.rows = pair(image_size)[0] // pair(patch_size)[0]
        self.transformer = Transformer(
            depth,
            lambda: Attention(dim, heads, dim_head, num_distance_basis, max_dist),
            lambda: simple_vit.FeedForward(dim, mlp_dim),
            dim=dim,
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.to_patch_embedding(images)
        x = rearrange(x + self.positions.to(x), 'b (h w) d -> b h w d', h=self.rows)
        return self.linear_head(self.transformer(x).mean(dim=(1, 2)))

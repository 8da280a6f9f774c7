"""Rotary ViT (RoFormer, arXiv:2104.09864); upstream module `rvt`."""

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import gelu

from vit_torch_ref.blocks import pair, softmax_attention
from vit_torch_ref.models.parallel_vit import patch_projection


class AxialPositions(nn.Module):
    def __init__(self, dim_head, max_freq):
        super().__init__()
        self.register_buffer('scales', torch.linspace(1, max_freq / 2, dim_head // 4))

    def forward(self, grid) -> Tensor:
        # upstream: coordinates are taken in float32, also in a model of doubles.
        rows, columns = (torch.linspace(-1, 1, steps, dtype=torch.float64).to(self.scales) * math.pi for steps in grid)
        places = torch.cartesian_prod(rows, columns)
        return torch.cat([places[:, [axis]] * self.scales for axis in (0, 1)], dim=1)


def turn(x: Tensor, angles: Tensor) -> Tensor:
    """Complex numbers of neighbouring channels times exp(i angle); the first token and the last channels stay."""
    width = 2 * angles.shape[1]
    points = torch.view_as_complex(x[:, :, 1:, :width].unflatten(-1, (-1, 2)).contiguous())
    turned = torch.view_as_real(points * torch.polar(torch.ones_like(angles), angles)).flatten(-2)
    return torch.cat([x[:, :, :1], torch.cat([turned, x[:, :, 1:, width:]], dim=-1)], dim=2)


class Depthwise(nn.Module):
    def __init__(self, dim, features, kernel):
        super().__init__()
        depthwise = nn.Conv2d(dim, dim, kernel, groups=dim, padding=kernel // 2, bias=False)
        self.net = nn.Sequential(depthwise, nn.Conv2d(dim, features, 1, bias=False))


class SpatialConv(nn.Module):
    def __init__(self, dim, features, kernel):
        super().__init__()
        self.cls_proj = nn.Identity() if dim == features else nn.Linear(dim, features)
        self.conv = Depthwise(dim, features, kernel)

    def forward(self, x: Tensor, grid) -> Tensor:
        patches = self.conv.net(rearrange(x[:, 1:], 'b (h w) d -> b d h w', h=grid[0]))
        return torch.cat([self.cls_proj(x[:, :1]), rearrange(patches, 'b d h w -> b (h w) d')], dim=1)


class Attention(nn.Module):
    def __init__(self, dim, heads, dim_head, dropout, use_rotary, use_ds_conv):
        super().__init__()
        inner = heads * dim_head
        self.heads, self.scale = heads, dim_head**-0.5
        self.use_rotary, self.use_ds_conv = use_rotary, use_ds_conv
        self.norm = nn.LayerNorm(dim)
        self.to_q = SpatialConv(dim, inner, 5) if use_ds_conv else nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, 2 * inner, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.to_out = nn.Sequential(nn.Linear(inner, dim), nn.Dropout(dropout))

    def forward(self, x: Tensor, grid, angles) -> Tensor:
        x = self.norm(x)
        q = self.to_q(x, grid) if self.use_ds_conv else self.to_q(x)
        q = rearrange(q, 'b n (e k) -> b e n k', e=self.heads)
        k, v = rearrange(self.to_kv(x), 'b n (kv e k) -> kv b e n k', kv=2, e=self.heads)
        if self.use_rotary:
            q, k = turn(q, angles), turn(k, angles)
        x = softmax_attention(q, k, v, self.scale, self.dropout)
        return self.to_out(rearrange(x, 'b e n k -> b n (e k)'))


class Activation(nn.Module):
    def __init__(self, gated):
        super().__init__()
        self.gated = gated

    def forward(self, x: Tensor) -> Tensor:
        if not self.gated:
            return gelu(x)
        values, gates = x.tensor_split(2, dim=-1)
        return values * gelu(gates)


class FeedForward(nn.Module):
    def __init__(self, dim, hidden_dim, dropout, use_glu):
        super().__init__()
        expand, contract = nn.Linear(dim, hidden_dim * (1 + use_glu)), nn.Linear(hidden_dim, dim)
        self.net = nn.Sequential(
            nn.LayerNorm(dim), expand, Activation(use_glu), nn.Dropout(dropout), contract, nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class RotaryTransformer(nn.Module):
    def __init__(self, blocks, dim_head, max_freq):
        super().__init__()
        self.pos_emb = AxialPositions(dim_head, max_freq)
        self.layers = nn.ModuleList(nn.ModuleList(block) for block in blocks)

    def forward(self, x: Tensor, grid) -> Tensor:
        angles = self.pos_emb(grid)
        for attention, feedforward in self.layers:
            x = x + attention(x, grid, angles)
            x = x + feedforward(x)
        return x


class RvT(nn.Module):
    def __init__(
        self,
        *,
        dim,
        depth,
        heads,
        dim_head=64,
        mlp_dim,
        image_size,
        patch_size,
        channels=3,
        num_classes,
        dropout=0.0,
        emb_dropout=0.0,
        use_glu=True,
        use_ds_conv=True,
        use_rotary=True,
    ):
        super().__init__()
        self.patch = pair(patch_size)
        self.to_patch_embedding = patch_projection(self.patch, channels, dim)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        blocks = (
            (
                Attention(dim, heads, dim_head, dropout, use_rotary, use_ds_conv),
                FeedForward(dim, mlp_dim, dropout, use_glu),
            )
            for _ in range(depth)
        )
        self.transformer = RotaryTransformer(blocks, dim_head, max(pair(image_size)))
        self.mlp_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        patches = self.to_patch_embedding(images)
        grid = [size // step for size, step in zip(images.shape[2:], self.patch, strict=True)]
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1)
        return self.mlp_head(self.transformer(x, grid)[:, 0])

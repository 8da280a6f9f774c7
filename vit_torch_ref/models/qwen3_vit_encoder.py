"""Qwen3-VL Technical Report, arXiv:2511.21631, its vision encoder; upstream is timm's `Qwen3VitEncoder`."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vit_torch_ref.models.eva import Attention, Block
from vit_torch_ref.models.vision_transformer import Mlp, PatchEmbed


class Merger(nn.Module):
    def __init__(self, dim, size, features, eps):
        super().__init__()
        self.size, width = size, dim * size**2
        self.norm, self.fc1 = nn.LayerNorm(dim, eps=eps), nn.Linear(width, width)
        self.fc2 = nn.Linear(width, features) if features else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = rearrange(self.norm(x), 'b (h p) (w q) d -> b (h w) (p q d)', p=self.size, q=self.size)
        return self.fc2(F.gelu(self.fc1(x)))


class Qwen3VitEncoder(nn.Module):
    def __init__(
        self,
        img_size=768,
        patch_size=16,
        in_chans=3,
        out_features=0,
        global_pool='merge',
        embed_dim=1152,
        depth=27,
        num_heads=16,
        mlp_ratio=4304 / 1152,
        merge_size=2,
        pos_embed_grid_size=48,
        rope_temperature=10000.0,
        norm_eps=1e-6,
        act='gelu_tanh',
    ):
        super().__init__()
        dim, heads, self.global_pool = embed_dim, num_heads, global_pool
        self.size, self.temperature, self.width = pos_embed_grid_size, rope_temperature, dim // heads

        def normed(width):
            return nn.LayerNorm(width, eps=norm_eps)

        self.patch_embed = PatchEmbed((patch_size, patch_size), in_chans, dim, True, None)
        self.pos_embed = nn.Parameter(torch.randn(1, self.size**2, dim) * 0.02)
        self.blocks = nn.ModuleList(
            Block(
                dim,
                Attention(dim, heads, heads, True, True, True, normed, False, False, 0, True),
                Mlp(dim, int(dim * mlp_ratio), act),
                normed,
                False,
                (None, None),
            )
            for _ in range(depth)
        )
        self.merger = Merger(dim, merge_size, out_features, norm_eps) if global_pool == 'merge' else None

    def positions(self, grid) -> Tensor:
        table = rearrange(self.pos_embed, '1 (h w) d -> 1 d h w', h=self.size)
        wide = table.to(torch.promote_types(table.dtype, torch.float32))
        moved = F.interpolate(wide, tuple(grid), mode='bilinear', align_corners=True).to(table.dtype)
        return rearrange(moved, '1 d h w -> 1 (h w) d')

    def angles(self, grid, dtype) -> Tensor:
        dtype, quarter = torch.promote_types(dtype, torch.float32), self.width // 4
        rates = self.temperature ** (-torch.arange(quarter, dtype=dtype) / quarter)
        row, column = torch.meshgrid(*(torch.arange(n, dtype=dtype) for n in grid), indexing='ij')
        return torch.cat([row.flatten()[:, None] * rates, column.flatten()[:, None] * rates], dim=-1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed(images)
        grid = x.shape[1:3]
        x = rearrange(x, 'b h w d -> b (h w) d') + self.positions(grid)
        angles = self.angles(grid, x.dtype)
        for block in self.blocks:
            x = block(x, angles)
        x = rearrange(x, 'b (h w) d -> b h w d', h=grid[0])
        if self.merger is not None:
            return self.merger(x)
        return x.mean(dim=(1, 2)) if self.global_pool == 'avg' else x

"""BEiT: BERT Pre-Training of Image Transformers, arXiv:2106.08254; upstream is timm's `Beit`."""

import torch
from einops import rearrange
from torch import Tensor, nn

from vit_torch_ref.blocks import pair
from vit_torch_ref.models.eva import Block
from vit_torch_ref.models.vision_transformer import NORMS, Mlp, PatchEmbed


def bias_table(grid, heads) -> nn.Parameter:
    return nn.Parameter(torch.zeros((2 * grid[0] - 1) * (2 * grid[1] - 1) + 3, heads))


def relative_bias(table: Tensor, grid) -> Tensor:
    """`[e n n]`, the class token first."""
    h, w = grid
    row, column = torch.arange(h * w) // w, torch.arange(h * w) % w
    to_patch, from_patch, itself = table[-3:]
    table = rearrange(table[:-3], '(a b) e -> e a b', a=2 * h - 1)
    bias = table[:, row[:, None] - row + h - 1, column[:, None] - column + w - 1]
    below = torch.cat([from_patch[:, None, None].expand(-1, h * w, 1), bias], dim=2)
    first = torch.cat([itself[:, None], to_patch[:, None].expand(-1, h * w)], dim=1)
    return torch.cat([first[:, None], below], dim=1)


class RelativePositionBias(nn.Module):
    def __init__(self, grid, heads):
        super().__init__()
        self.grid, self.relative_position_bias_table = grid, bias_table(grid, heads)

    def forward(self) -> Tensor:
        return relative_bias(self.relative_position_bias_table, self.grid)


class Attention(nn.Module):
    def __init__(self, dim, heads, bias, grid):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias, self.v_bias = (nn.Parameter(torch.zeros(dim)) if bias else None for _ in range(2))
        self.grid = grid
        self.relative_position_bias_table = None if grid is None else bias_table(grid, heads)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, shared: Tensor | None) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if self.q_bias is not None:
            q, v = q + self.q_bias, v + self.v_bias
        q, k, v = (rearrange(t, 'b n (e k) -> b e n k', e=self.heads) for t in (q, k, v))
        scores = q @ k.mT * q.shape[-1] ** -0.5
        if shared is not None:
            scores = scores + shared
        if self.relative_position_bias_table is not None:
            scores = scores + relative_bias(self.relative_position_bias_table, self.grid)
        return self.proj(rearrange(scores.softmax(dim=-1) @ v, 'b e n k -> b n (e k)'))


class Beit(nn.Module):
    def __init__(
        self,
        img_size=224,
        patch_size=16,
        in_chans=3,
        num_classes=1000,
        global_pool='avg',
        embed_dim=768,
        depth=12,
        num_heads=12,
        qkv_bias=True,
        mlp_ratio=4.0,
        swiglu_mlp=False,
        scale_mlp=False,
        init_values=None,
        use_abs_pos_emb=True,
        use_rel_pos_bias=False,
        use_shared_rel_pos_bias=False,
        use_fc_norm=None,
        norm='layer',
        norm_eps=1e-6,
    ):
        super().__init__()
        dim, heads, self.global_pool = embed_dim, num_heads, global_pool
        grid = tuple(n // p for n, p in zip(pair(img_size), pair(patch_size), strict=True))
        pooled = global_pool == 'avg' if use_fc_norm is None else use_fc_norm

        def normed(width):
            return NORMS[norm](width, eps=norm_eps)

        def feedforward():
            kind = ('silu', 'swiglu') if swiglu_mlp else ('gelu', 'mlp')
            return Mlp(dim, int(dim * mlp_ratio), *kind, norm=normed if scale_mlp else None)

        self.patch_embed = PatchEmbed(pair(patch_size), in_chans, dim, True, None)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, grid[0] * grid[1] + 1, dim) * 0.02) if use_abs_pos_emb else None
        self.rel_pos_bias = RelativePositionBias(grid, heads) if use_shared_rel_pos_bias else None
        self.blocks = nn.ModuleList(
            Block(
                dim,
                Attention(dim, heads, qkv_bias, grid if use_rel_pos_bias else None),
                feedforward(),
                normed,
                False,
                (init_values or None, init_values or None),
            )
            for _ in range(depth)
        )
        self.norm = nn.Identity() if pooled else normed(dim)
        self.fc_norm = normed(dim) if pooled else nn.Identity()
        self.head = nn.Linear(dim, num_classes) if num_classes else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        x = rearrange(self.patch_embed(images), 'b h w d -> b (h w) d')
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = x if self.pos_embed is None else x + self.pos_embed
        shared = None if self.rel_pos_bias is None else self.rel_pos_bias()
        for block in self.blocks:
            x = block(x, shared)
        x = self.norm(x)
        if self.global_pool:
            x = x[:, 1:].mean(dim=1) if self.global_pool == 'avg' else x[:, 0]
        return self.head(self.fc_norm(x))

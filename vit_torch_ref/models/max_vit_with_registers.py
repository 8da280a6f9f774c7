"""Vision Transformers Need Registers, arXiv:2309.16588; upstream module `max_vit_with_registers`."""

import torch
from einops import rearrange, repeat
from einops.layers.torch import Reduce
from torch import Tensor, nn

from vit_torch_ref.models.max_vit import Residual, mb_conv


def feed_forward(dim, dropout):
    expand, contract = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
    return nn.Sequential(nn.LayerNorm(dim), expand, nn.GELU(), nn.Dropout(dropout), contract, nn.Dropout(dropout))


class Attention(nn.Module):
    def __init__(self, dim, dim_head, window, registers, dropout):
        super().__init__()
        self.heads, self.scale = dim // dim_head, dim_head**-0.5
        ways = (2 * window - 1) ** 2
        self.rel_pos_bias = nn.Embedding(ways + 1, self.heads)
        n = window**2 + registers
        index = torch.full((n, n), ways)
        for query in range(window**2):
            for key in range(window**2):
                down, right = query // window - key // window, query % window - key % window
                row = (down + window - 1) * (2 * window - 1) + right + window - 1
                index[registers + query, registers + key] = row
        self.register_buffer('rel_pos_indices', index, persistent=False)
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(dim, dim, bias=False), nn.Dropout(dropout))
        self.norm, self.dropout = nn.LayerNorm(dim), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.to_qkv(self.norm(x)), 'b n (qkv e k) -> qkv b e n k', qkv=3, e=self.heads)
        scores = (q * self.scale) @ k.mT + rearrange(self.rel_pos_bias(self.rel_pos_indices), 'n m e -> e n m')
        x = self.dropout(scores.softmax(dim=-1)) @ v
        return self.to_out(rearrange(x, 'b e n k -> b n (e k)'))


class MaxViT(nn.Module):
    def __init__(
        self,
        *,
        dim,
        depth,
        num_classes,
        num_register_tokens=4,
        window_size=7,
        dim_head=32,
        dim_conv_stem=None,
        mbconv_shrinkage_rate=0.25,
        mbconv_expansion_rate=4,
        dropout=0.1,
        channels=3,
    ):
        super().__init__()
        self.window = window_size
        before = dim if dim_conv_stem is None else dim_conv_stem
        self.conv_stem = nn.Sequential(
            nn.Conv2d(channels, before, 3, padding=1, stride=2), nn.Conv2d(before, before, 3, padding=1)
        )
        self.layers, self.register_tokens = nn.ModuleList(), nn.ParameterList()
        for stage, blocks in enumerate(depth):
            width = dim * 2**stage
            for index in range(blocks):
                conv = mb_conv(before, width, 1 if index else 2, mbconv_expansion_rate, mbconv_shrinkage_rate)
                parts = [Residual(conv) if index else conv]
                for _ in range(2):
                    attention = Attention(width, dim_head, window_size, num_register_tokens, dropout)
                    parts.append(nn.ModuleList([attention, feed_forward(width, dropout)]))
                self.layers.append(nn.ModuleList(parts))
                self.register_tokens.append(nn.Parameter(torch.randn(num_register_tokens, width)))
                before = width
        self.mlp_head = nn.Sequential(
            Reduce('b c h w -> b c', 'mean'), nn.LayerNorm(before), nn.Linear(before, num_classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv_stem(images)
        for (conv, (near, near_ff), (far, far_ff)), tokens in zip(self.layers, self.register_tokens, strict=True):
            x = conv(x)
            sides = dict(p=self.window, q=self.window)
            h, w, r = x.shape[2] // self.window, x.shape[3] // self.window, len(tokens)
            x = rearrange(x, 'b d (h p) (w q) -> (b h w) (p q) d', **sides)
            x = torch.cat([repeat(tokens, 'r d -> b r d', b=len(x)), x], dim=1)
            x = x + near(x)
            x = x + near_ff(x)
            tokens, x = x[:, :r], x[:, r:]

            tokens = rearrange(tokens, '(b hw) r d -> b hw r d', hw=h * w).mean(dim=1)
            x = rearrange(x, '(b h w) (p q) d -> b d (h p) (w q)', h=h, w=w, **sides)
            x = rearrange(x, 'b d (p h) (q w) -> (b h w) (p q) d', **sides)
            x = torch.cat([tokens.repeat_interleave(h * w, dim=0), x], dim=1)
            x = (x + far(x))[:, r:]
            x = x + far_ff(x)
            x = rearrange(x, '(b h w) (p q) d -> b d (p h) (q w)', h=h, w=w, **sides)
        return self.mlp_head(x)

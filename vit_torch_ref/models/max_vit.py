"""MaxViT: Multi-Axis Vision Transformer, arXiv:2204.01697; upstream module `max_vit`."""

import torch
from einops import rearrange
from einops.layers.torch import Rearrange, Reduce
from torch import Tensor, nn

from vit_torch_ref.blocks import FeedForward


class SqueezeExcitation(nn.Module):
    def __init__(self, dim, rate):
        super().__init__()
        inner = int(dim * rate)
        squeeze, excite = nn.Linear(dim, inner, bias=False), nn.Linear(inner, dim, bias=False)
        average = Reduce('b c h w -> b c', 'mean')
        self.gate = nn.Sequential(average, squeeze, nn.SiLU(), excite, nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)[:, :, None, None]


def mb_conv(dim_in, dim, stride, expansion, shrinkage):
    hidden = int(dim * expansion)
    depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, stride=stride)
    return nn.Sequential(
        *(nn.Conv2d(dim_in, hidden, 1), nn.BatchNorm2d(hidden), nn.GELU()),
        *(depthwise, nn.BatchNorm2d(hidden), nn.GELU()),
        *(SqueezeExcitation(hidden, shrinkage), nn.Conv2d(hidden, dim, 1), nn.BatchNorm2d(dim)),
    )


class Residual(nn.Module):
    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fn(x)


class Attention(nn.Module):
    def __init__(self, dim, dim_head, window, dropout):
        super().__init__()
        self.heads, self.scale = dim // dim_head, dim_head**-0.5
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(dim, dim, bias=False), nn.Dropout(dropout))
        self.norm, self.dropout = nn.LayerNorm(dim), nn.Dropout(dropout)
        self.rel_pos_bias = nn.Embedding((2 * window - 1) ** 2, self.heads)
        places = torch.cartesian_prod(torch.arange(window), torch.arange(window))
        down, right = (places[:, None] - places[None] + window - 1).unbind(dim=-1)
        self.register_buffer('rel_pos_indices', down * (2 * window - 1) + right, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        leading, p = x.shape[:3], x.shape[3]
        qkv = self.to_qkv(self.norm(x))
        q, k, v = rearrange(qkv, 'b h w p q (qkv e k) -> qkv (b h w) e (p q) k', qkv=3, e=self.heads)
        scores = (q * self.scale) @ k.mT + rearrange(self.rel_pos_bias(self.rel_pos_indices), 'n m e -> e n m')
        x = self.dropout(scores.softmax(dim=-1)) @ v
        x = rearrange(x, 'bhw e (p q) k -> bhw p q (e k)', p=p)
        return self.to_out(x).unflatten(0, leading)


class MaxViT(nn.Module):
    def __init__(
        self,
        *,
        num_classes,
        depth,
        dim,
        dim_conv_stem=None,
        dim_head=32,
        window_size=7,
        channels=3,
        dropout=0.1,
        mbconv_shrinkage_rate=0.25,
        mbconv_expansion_rate=4,
        mbconv_dropout=0.0,
    ):
        super().__init__()
        before = dim if dim_conv_stem is None else dim_conv_stem
        self.conv_stem = nn.Sequential(
            nn.Conv2d(channels, before, 3, padding=1, stride=2), nn.Conv2d(before, before, 3, padding=1)
        )
        self.mbconv_dropout = mbconv_dropout
        self.layers = nn.ModuleList()
        sides = dict(p=window_size, q=window_size)
        for stage, blocks in enumerate(depth):
            width = dim * 2**stage
            for index in range(blocks):
                conv = mb_conv(before, width, 1 if index else 2, mbconv_expansion_rate, mbconv_shrinkage_rate)
                parts = [Residual(conv) if index else conv]
                for far, near in (('(h p)', '(w q)'), ('(p h)', '(q w)')):
                    parts += [
                        Rearrange(f'b d {far} {near} -> b h w p q d', **sides),
                        Residual(Attention(width, dim_head, window_size, dropout)),
                        Residual(FeedForward(width, 4 * width, dropout)),
                        Rearrange(f'b h w p q d -> b d {far} {near}', **sides),
                    ]
                self.layers.append(nn.Sequential(*parts))
                before = width
        self.mlp_head = nn.Sequential(
            Reduce('b c h w -> b c', 'mean'), nn.LayerNorm(before), nn.Linear(before, num_classes)
        )

    def forward(self, images: Tensor, keep_convs: Tensor | None = None) -> Tensor:
        x = self.conv_stem(images)
        for index, (conv, *others) in enumerate(self.layers):
            if keep_convs is not None and isinstance(conv, Residual):
                x = x + conv.fn(x) * keep_convs[index].to(x)[:, None, None, None] / (1 - self.mbconv_dropout)
            else:
                x = conv(x)
            for part in others:
                x = part(x)
        return self.mlp_head(x)

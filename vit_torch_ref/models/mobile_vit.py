"""MobileViT, arXiv:2110.02178; upstream module `mobile_vit`."""

import torch
from einops import rearrange
from einops.layers.torch import Reduce
from torch import Tensor, nn

from vit_torch_ref.blocks import Transformer, softmax_attention


def conv_norm(before, after, kernel=1, stride=1, groups=1, activate=True):
    # upstream: the padding is 1 whatever the kernel, which crashes unless that is 3.
    conv = nn.Conv2d(before, after, kernel, bias=False, stride=stride, padding=kernel // 2, groups=groups)
    return nn.Sequential(conv, nn.BatchNorm2d(after), *([nn.SiLU()] if activate else []))


class MV2Block(nn.Module):
    def __init__(self, before, after, stride, expansion):
        super().__init__()
        hidden = int(before * expansion)
        self.residual = before == after and stride == 1
        expand = () if expansion == 1 else conv_norm(before, hidden)
        depthwise = conv_norm(hidden, hidden, 3, stride, groups=hidden)
        self.conv = nn.Sequential(*expand, *depthwise, *conv_norm(hidden, after, activate=False))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class FeedForward(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        expand, contract = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.net = nn.Sequential(nn.LayerNorm(dim), expand, nn.SiLU(), nn.Identity(), contract)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Attention(nn.Module):
    def __init__(self, dim, heads=4, dim_head=8):
        super().__init__()
        self.heads, self.scale = heads, dim_head**-0.5
        inner = dim_head * heads
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, dim))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.to_qkv(self.norm(x)), 'b p n (qkv e k) -> qkv b p e n k', qkv=3, e=self.heads)
        return self.to_out(rearrange(softmax_attention(q, k, v, self.scale), 'b p e n k -> b p n (e k)'))


class MobileViTBlock(nn.Module):
    def __init__(self, dim, depth, channels, kernel, patch, hidden):
        super().__init__()
        self.patch = dict(zip('pq', patch, strict=True))
        self.conv1, self.conv2 = conv_norm(channels, channels, kernel), conv_norm(channels, dim)
        self.transformer = Transformer(depth, lambda: Attention(dim), lambda: FeedForward(dim, hidden))
        self.conv3, self.conv4 = conv_norm(dim, channels), conv_norm(2 * channels, channels, kernel)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        rows = y.shape[2] // self.patch['p']
        y = self.transformer(rearrange(y, 'b d (h p) (w q) -> b (p q) (h w) d', **self.patch))
        y = rearrange(y, 'b (p q) (h w) d -> b d (h p) (w q)', h=rows, **self.patch)
        return self.conv4(torch.cat([self.conv3(y), x], dim=1))


class MobileViT(nn.Module):
    def __init__(
        self,
        image_size,
        *,
        num_classes,
        dims,
        depths=(2, 4, 3),
        channels,
        kernel_size=3,
        expansion=4,
        patch_size=(2, 2),
        in_channels=3,
    ):
        super().__init__()

        def bottleneck(first, stride=1):
            return MV2Block(channels[first], channels[first + 1], stride, expansion)

        self.conv1 = conv_norm(in_channels, channels[0], 3, 2)
        self.stem = nn.ModuleList([bottleneck(0), bottleneck(1, 2), bottleneck(2), bottleneck(2)])
        self.trunk = nn.ModuleList()
        for i, mult in enumerate((2, 4, 4)):
            width = channels[2 * i + 5]
            block = MobileViTBlock(dims[i], depths[i], width, kernel_size, patch_size, mult * dims[i])
            self.trunk.append(nn.ModuleList([bottleneck(2 * i + 3, 2), block]))
        self.to_logits = nn.Sequential(
            conv_norm(channels[9], channels[10]),
            Reduce('b c h w -> b c', 'mean'),
            nn.Linear(channels[10], num_classes, bias=False),
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv1(images)
        for block in self.stem:
            x = block(x)
        for shrink, block in self.trunk:
            x = block(shrink(x))
        return self.to_logits(x)

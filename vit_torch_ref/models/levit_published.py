"""LeViT as published, arXiv:2104.01136; timm's `Levit`."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

ACTIVATIONS = {'hard_swish': nn.Hardswish, 'silu': nn.SiLU, 'gelu': nn.GELU}


class LinearNorm(nn.Module):
    """On grids `[b d h w]`, whether the kernel is that of a linear map or of a convolution."""

    def __init__(self, dim, features, conv, start=1.0):
        super().__init__()
        self.linear = nn.Conv2d(dim, features, 1, bias=False) if conv else nn.Linear(dim, features, bias=False)
        self.bn = nn.BatchNorm2d(features)
        nn.init.constant_(self.bn.weight, start)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.linear.weight.flatten(1)
        return self.bn(torch.einsum('bdhw, fd -> bfhw', x, weight))


class StemLayer(nn.Module):
    def __init__(self, channels, features):
        super().__init__()
        self.linear = nn.Conv2d(channels, features, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(features)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.linear(x))


def stem(channels, dim, layers, act):
    found = OrderedDict()
    for i in range(layers):
        width = dim // 2 ** (layers - 1 - i)
        found[f'conv{i + 1}'] = StemLayer(channels, width)
        if i < layers - 1:
            found[f'act{i + 1}'] = act()
        channels = width
    return nn.Sequential(found)


class Attention(nn.Module):
    def __init__(self, dim, out, key, heads, ratio, grid, conv, act, stride):
        super().__init__()
        self.heads, self.key, self.value, self.stride = heads, key, int(ratio * key), stride
        both = heads * (key + self.value)
        if stride == 1:
            self.qkv = LinearNorm(dim, both + heads * key, conv)
        else:
            self.kv = LinearNorm(dim, both, conv)
            self.q = nn.Sequential(OrderedDict(ln=LinearNorm(dim, heads * key, conv)))
        self.proj = nn.Sequential(
            OrderedDict(act=act(), ln=LinearNorm(heads * self.value, out, conv, float(stride > 1)))
        )
        rows, columns = grid
        self.attention_biases = nn.Parameter(torch.zeros(heads, rows * columns))
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing='ij')
        queries = torch.stack([t[::stride, ::stride].flatten() for t in (y, x)])
        keys = torch.stack([y.flatten(), x.flatten()])
        apart = (queries[:, :, None] - keys[:, None]).abs()
        self.register_buffer('index', apart[0] * columns + apart[1], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            parts, widths = self.qkv(x), [self.key, self.key, self.value]
            q, k, v = parts.flatten(2).unflatten(1, (self.heads, -1)).split(widths, dim=2)
        else:
            k, v = self.kv(x).flatten(2).unflatten(1, (self.heads, -1)).split([self.key, self.value], dim=2)
            x = x[:, :, :: self.stride, :: self.stride]
            q = self.q(x).flatten(2).unflatten(1, (self.heads, -1))
        scores = torch.einsum('bekn, bekm -> benm', q, k) * self.key**-0.5 + self.attention_biases[:, self.index]
        y = torch.einsum('benm, bekm -> bekn', scores.softmax(dim=-1), v)
        return self.proj(y.flatten(1, 2).unflatten(2, x.shape[2:]))


class Mlp(nn.Module):
    def __init__(self, dim, ratio, conv, act):
        super().__init__()
        self.ln1, self.act = LinearNorm(dim, int(dim * ratio), conv), act()
        self.ln2 = LinearNorm(int(dim * ratio), dim, conv, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.ln2(self.act(self.ln1(x)))


class Block(nn.Module):
    def __init__(self, attention, mlp):
        super().__init__()
        self.attn, self.mlp = attention, mlp

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        return x + self.mlp(x)


class Downsample(nn.Module):
    def __init__(self, attention, mlp):
        super().__init__()
        self.attn_downsample, self.mlp = attention, mlp

    def forward(self, x: Tensor) -> Tensor:
        x = self.attn_downsample(x)
        return x + self.mlp(x)


class Stage(nn.Module):
    def __init__(self, downsample, blocks):
        super().__init__()
        self.downsample, self.blocks = downsample, nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class Head(nn.Module):
    def __init__(self, dim, classes):
        super().__init__()
        self.bn, self.linear = nn.BatchNorm1d(dim), nn.Linear(dim, classes)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.bn(x))


class Levit(nn.Module):
    def __init__(
        self,
        *,
        img_size=224,
        in_chans=3,
        num_classes=1000,
        embed_dim=(192,),
        key_dim=64,
        depth=(12,),
        num_heads=(3,),
        attn_ratio=2.0,
        mlp_ratio=2.0,
        stem_type='s16',
        act_layer='hard_swish',
        attn_act_layer=None,
        use_conv=False,
        global_pool='avg',
        distilled=False,
    ):
        super().__init__()
        stages = len(embed_dim)
        heads, attn, mlp = (
            [x] * stages if isinstance(x, int | float) else list(x) for x in (num_heads, attn_ratio, mlp_ratio)
        )
        act, attn_act = ACTIVATIONS[act_layer], ACTIVATIONS[attn_act_layer or act_layer]
        stride = int(stem_type[1:])
        size = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.global_pool, self.distilled = global_pool, distilled
        self.stem = stem(in_chans, embed_dim[0], stride.bit_length() - 1, act)
        grid, found = tuple(length // stride for length in size), []
        for i, dim in enumerate(embed_dim):
            before, down = embed_dim[i - 1], nn.Identity()
            if i:
                smaller = Attention(before, dim, key_dim, before // key_dim, 4.0, grid, use_conv, attn_act, 2)
                down = Downsample(smaller, Mlp(dim, 2.0, use_conv, act))
                grid = tuple((length - 1) // 2 + 1 for length in grid)
            blocks = [
                Block(
                    Attention(dim, dim, key_dim, heads[i], attn[i], grid, use_conv, attn_act, 1),
                    Mlp(dim, mlp[i], use_conv, act),
                )
                for _ in range(depth[i])
            ]
            found.append(Stage(down, blocks))
        self.stages = nn.Sequential(*found)
        self.head = Head(embed_dim[-1], num_classes) if num_classes else nn.Identity()
        if distilled:
            self.head_dist = Head(embed_dim[-1], num_classes) if num_classes else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        x = self.stages(self.stem(images)).flatten(2)
        x = x.mean(dim=2) if self.global_pool else x.mT
        if not self.distilled:
            return self.head(x)
        both = self.head(x), self.head_dist(x)
        return both if self.training else (both[0] + both[1]) / 2

"""An Image is Worth 16x16 Words, arXiv:2010.11929, its hybrids; upstream is timm's `vision_transformer_hybrid`."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vit_torch_ref.blocks import pair
from vit_torch_ref.models.vision_transformer import VisionTransformer


def pad_same(x: Tensor, size: int, stride: int, value: float = 0.0) -> Tensor:
    """TensorFlow's SAME: as many outputs as strides begin, the odd element on the right and below."""
    h, w = (max((-(-n // stride) - 1) * stride + size - n, 0) for n in x.shape[-2:])
    return F.pad(x, (w // 2, w - w // 2, h // 2, h - h // 2), value=value)


class StandardisedConv(nn.Conv2d):
    def __init__(self, channels, width, size, stride=1):
        super().__init__(channels, width, size, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), correction=0, keepdim=True)
        weight = (self.weight - mean) / torch.sqrt(variance + 1e-8)
        return F.conv2d(pad_same(x, self.kernel_size[0], self.stride[0]), weight, stride=self.stride)


class MaxPool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(pad_same(x, 3, 2, -float('inf')), 3, stride=2)


class NormAct(nn.GroupNorm):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


class Stem(nn.Sequential):
    def __init__(self, channels, width, groups):
        super().__init__()
        self.add_module('conv', StandardisedConv(channels, width, 7, 2))
        self.add_module('norm', NormAct(groups, width))
        self.add_module('pool', MaxPool())


class Downsample(nn.Module):
    def __init__(self, channels, width, groups, stride):
        super().__init__()
        self.conv, self.norm = StandardisedConv(channels, width, 1, stride), nn.GroupNorm(groups, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Bottleneck(nn.Module):
    def __init__(self, channels, width, groups, stride, first):
        super().__init__()
        inner = width // 4
        self.downsample = Downsample(channels, width, groups, stride) if first else nn.Identity()
        self.conv1, self.norm1 = StandardisedConv(channels, inner, 1), NormAct(groups, inner)
        self.conv2, self.norm2 = StandardisedConv(inner, inner, 3, stride), NormAct(groups, inner)
        self.conv3, self.norm3 = StandardisedConv(inner, width, 1), nn.GroupNorm(groups, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.norm1(self.conv1(x))))
        return F.relu(self.norm3(self.conv3(y)) + self.downsample(x))


class Stage(nn.Module):
    def __init__(self, *blocks):
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class ResNetV2(nn.Module):
    def __init__(self, layers, widths, stem_chs, groups, channels):
        super().__init__()
        self.stem = Stem(channels, stem_chs, groups)
        self.stages = nn.Sequential()
        before = stem_chs
        for stage, (depth, width) in enumerate(zip(layers, widths, strict=False)):
            blocks = [
                Bottleneck(width if i else before, width, groups, 2 if stage and not i else 1, i == 0)
                for i in range(depth)
            ]
            self.stages.append(Stage(*blocks))
            before = width

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(self.stem(x))


class HybridEmbed(nn.Module):
    def __init__(self, backbone, features, patch, dim, bias):
        super().__init__()
        self.backbone, self.patch = backbone, patch
        self.proj = nn.Conv2d(features, dim, patch, stride=patch, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        x = self.backbone(images)
        (h, w), (p, q) = x.shape[-2:], self.patch
        return rearrange(self.proj(F.pad(x, (0, -w % q, 0, -h % p))), 'b d h w -> b h w d')


class HybridVisionTransformer(VisionTransformer):
    def __init__(
        self,
        img_size=224,
        patch_size=1,
        in_chans=3,
        embed_dim=768,
        pre_norm=False,
        dynamic_img_pad=False,
        layers=(3, 4, 9),
        widths=(256, 512, 1024, 2048),
        stem_chs=64,
        num_groups=32,
        **kwargs,
    ):
        patch, stride = pair(patch_size), 4 * 2 ** max(len(layers) - 1, 0)
        whole = tuple(p * stride for p in patch)
        lengths = tuple(-(-n // p) * p for n, p in zip(pair(img_size), whole, strict=True))
        super().__init__(lengths, whole, in_chans, embed_dim=embed_dim, pre_norm=pre_norm, **kwargs)
        if layers:
            backbone, features = ResNetV2(layers, widths, stem_chs, num_groups, in_chans), widths[len(layers) - 1]
        else:
            backbone, features = Stem(in_chans, stem_chs, num_groups), stem_chs
        self.patch_embed = HybridEmbed(backbone, features, patch, embed_dim, not pre_norm)

"""PiT as published, arXiv:2103.16302; timm's `PoolingVisionTransformer`."""

from functools import partial

import torch
from torch import Tensor, nn

from vit_torch_ref.models.vision_transformer import Attention, Block, Mlp


class Pooling(nn.Module):
    def __init__(self, dim, features):
        super().__init__()
        self.conv = nn.Conv2d(dim, features, 3, 2, 1, groups=dim)
        self.fc = nn.Linear(dim, features)

    def forward(self, patches: Tensor, prefix: Tensor) -> tuple[Tensor, Tensor]:
        return self.conv(patches), self.fc(prefix)


class Stage(nn.Module):
    def __init__(self, pool, blocks):
        super().__init__()
        self.pool, self.blocks = pool, nn.Sequential(*blocks)

    def forward(self, patches: Tensor, prefix: Tensor) -> tuple[Tensor, Tensor]:
        if self.pool is not None:
            patches, prefix = self.pool(patches, prefix)
        x = self.blocks(torch.cat([prefix, patches.flatten(2).mT], dim=1))
        count = prefix.shape[1]
        return x[:, count:].mT.unflatten(2, patches.shape[2:]), x[:, :count]


class Embedding(nn.Module):
    def __init__(self, channels, dim, patch, stride):
        super().__init__()
        self.conv = nn.Conv2d(channels, dim, patch, stride)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images)


class PoolingVisionTransformer(nn.Module):
    def __init__(
        self,
        *,
        img_size=224,
        patch_size=16,
        stride=8,
        base_dims=(48, 48, 48),
        depth=(2, 6, 4),
        heads=(2, 4, 8),
        mlp_ratio=4.0,
        num_classes=1000,
        in_chans=3,
        global_pool='token',
        distilled=False,
    ):
        super().__init__()
        widths = [dim * count for dim, count in zip(base_dims, heads, strict=True)]
        size = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.global_pool, self.distilled = global_pool, distilled
        self.patch_embed = Embedding(in_chans, widths[0], patch_size, stride)
        grid = ((length - patch_size) // stride + 1 for length in size)
        self.pos_embed = nn.Parameter(torch.zeros(1, widths[0], *grid))
        self.cls_token = nn.Parameter(torch.zeros(1, 1 + distilled, widths[0]))
        norm = partial(nn.LayerNorm, eps=1e-6)

        def block(width, count):
            attention = partial(Attention, width, count, norm, True, True, False, False, None)
            return Block(width, attention, partial(Mlp, width, int(width * mlp_ratio), 'gelu'), norm, None)

        self.transformers = nn.ModuleList(
            [
                Stage(Pooling(widths[i - 1], width) if i else None, [block(width, heads[i]) for _ in range(depth[i])])
                for i, width in enumerate(widths)
            ]
        )
        self.norm = norm(widths[-1])
        self.head = nn.Linear(widths[-1], num_classes) if num_classes else nn.Identity()
        if distilled:
            self.head_dist = nn.Linear(widths[-1], num_classes) if num_classes else nn.Identity()
        for tokens in (self.pos_embed, self.cls_token):
            nn.init.trunc_normal_(tokens, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed(images) + self.pos_embed
        tokens = self.cls_token.expand(len(x), -1, -1)
        for stage in self.transformers:
            x, tokens = stage(x, tokens)
        tokens = self.norm(tokens)
        if self.distilled:
            both = self.head(tokens[:, 0]), self.head_dist(tokens[:, 1])
            return both if self.training else (both[0] + both[1]) / 2
        return self.head(tokens[:, 0] if self.global_pool else tokens)

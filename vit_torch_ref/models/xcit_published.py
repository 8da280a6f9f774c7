"""XCiT as published, arXiv:2106.09681; timm's `Xcit`."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from vit_torch_ref.blocks import softmax_attention


class PatchEmbed(nn.Module):
    def __init__(self, channels, dim, patch):
        super().__init__()
        count, layers = int(math.log2(patch)), []
        for i in range(count):
            width = dim >> (count - 1 - i)
            layers += [
                nn.Sequential(nn.Conv2d(channels, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width)),
                nn.GELU(),
            ]
            channels = width
        self.proj = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class FourierPositions(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.token_projection = nn.Conv2d(64, dim, 1)

    def forward(self, height: int, width: int) -> Tensor:
        weight = self.token_projection.weight
        y = torch.arange(1, height + 1).to(weight) / (height + 1e-6) * 2 * math.pi
        x = torch.arange(1, width + 1).to(weight) / (width + 1e-6) * 2 * math.pi
        periods = 10_000 ** (torch.arange(16).to(weight) / 16)
        y, x = (angles[:, None] / periods for angles in (y, x))
        y, x = (torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1) for angles in (y, x))
        features = torch.cat([y[:, None].expand(-1, width, -1), x[None].expand(height, -1, -1)], dim=2)
        return self.token_projection(features.permute(2, 0, 1)[None])


class XCA(nn.Module):
    def __init__(self, dim, heads, bias, map_dropout, dropout):
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.map_dropout = nn.Dropout(map_dropout)
        self.proj, self.dropout = nn.Linear(dim, dim), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 4, 1)
        scores = normalize(q, dim=-1) @ normalize(k, dim=-1).mT * self.temperature
        x = self.map_dropout(scores.softmax(dim=-1)) @ v
        return self.dropout(self.proj(x.permute(0, 3, 1, 2).reshape(b, n, d)))


class LPI(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.bn = nn.BatchNorm2d(dim)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor, height: int) -> Tensor:
        grid = x.mT.unflatten(2, (height, -1))
        return self.conv2(self.bn(nn.functional.gelu(self.conv1(grid)))).flatten(2).mT


class Mlp(nn.Module):
    def __init__(self, dim, ratio, dropout):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, int(dim * ratio)), nn.Linear(int(dim * ratio), dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.fc2(self.dropout(nn.functional.gelu(self.fc1(x)))))


class XCABlock(nn.Module):
    def __init__(self, dim, heads, ratio, bias, map_dropout, dropout, eta, eps):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim, eps) for _ in range(3))
        self.attn = XCA(dim, heads, bias, map_dropout, dropout)
        self.local_mp = LPI(dim)
        self.mlp = Mlp(dim, ratio, dropout)
        self.gamma1, self.gamma2, self.gamma3 = (nn.Parameter(torch.full((dim,), eta)) for _ in range(3))

    def forward(self, x: Tensor, height: int) -> Tensor:
        x = x + self.gamma1 * self.attn(self.norm1(x))
        x = x + self.gamma3 * self.local_mp(self.norm3(x), height)
        return x + self.gamma2 * self.mlp(self.norm2(x))


class ClassAttn(nn.Module):
    def __init__(self, dim, heads, bias, map_dropout, dropout):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(dim, dim, bias=bias) for _ in range(3))
        self.map_dropout = nn.Dropout(map_dropout)
        self.proj, self.dropout = nn.Linear(dim, dim), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in (self.q(x[:, :1]), self.k(x), self.v(x)))
        x = softmax_attention(q, k, v, q.shape[-1] ** -0.5, self.map_dropout)
        return self.dropout(self.proj(x.transpose(1, 2).flatten(2)))


class ClassBlock(nn.Module):
    def __init__(self, dim, heads, ratio, bias, map_dropout, dropout, eta, tokens_norm, eps):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps), nn.LayerNorm(dim, eps)
        self.attn = ClassAttn(dim, heads, bias, map_dropout, dropout)
        self.mlp = Mlp(dim, ratio, dropout)
        self.gamma1, self.gamma2 = (nn.Parameter(torch.full((dim,), eta)) for _ in range(2))
        self.tokens_norm = tokens_norm

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        x = x + self.gamma1 * torch.cat([self.attn(normed), normed[:, 1:]], dim=1)
        x = self.norm2(x) if self.tokens_norm else torch.cat([self.norm2(x[:, :1]), x[:, 1:]], dim=1)
        update = self.gamma2 * self.mlp(x[:, :1])
        return x + torch.cat([update, x[:, 1:]], dim=1)


class Xcit(nn.Module):
    def __init__(
        self,
        *,
        img_size=224,
        patch_size=16,
        in_chans=3,
        num_classes=1000,
        global_pool='token',
        embed_dim=768,
        depth=12,
        num_heads=12,
        mlp_ratio=4.0,
        qkv_bias=True,
        cls_attn_layers=2,
        use_pos_embed=True,
        eta=1.0,
        tokens_norm=False,
        drop_rate=0.0,
        pos_drop_rate=0.0,
        proj_drop_rate=0.0,
        attn_drop_rate=0.0,
        norm_eps=1e-6,
    ):
        super().__init__()
        parts = embed_dim, num_heads, mlp_ratio, qkv_bias, attn_drop_rate, proj_drop_rate, eta
        self.global_pool = global_pool
        self.patch_embed = PatchEmbed(in_chans, embed_dim, patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = FourierPositions(embed_dim) if use_pos_embed else None
        self.pos_drop = nn.Dropout(pos_drop_rate)
        self.blocks = nn.ModuleList([XCABlock(*parts, norm_eps) for _ in range(depth)])
        self.cls_attn_blocks = nn.ModuleList(
            [ClassBlock(*parts, tokens_norm, norm_eps) for _ in range(cls_attn_layers)]
        )
        self.norm = nn.LayerNorm(embed_dim, norm_eps)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        self.apply(initialise)
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed(images)
        height, width = x.shape[2:]
        x = x if self.pos_embed is None else x + self.pos_embed(height, width)
        x = self.pos_drop(x.flatten(2).mT)
        for block in self.blocks:
            x = block(x, height)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        for block in self.cls_attn_blocks:
            x = block(x)
        x = self.norm(x)
        if self.global_pool:
            x = x[:, 1:].mean(dim=1) if self.global_pool == 'avg' else x[:, 0]
        return self.head(self.head_drop(x))


def initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)

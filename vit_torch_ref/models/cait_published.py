"""CaiT as published, arXiv:2103.17239; timm's `Cait`."""

import torch
from torch import Tensor, nn

from vit_torch_ref.models.xcit_published import ClassAttn, Mlp, initialise


class TalkingHeads(nn.Module):
    def __init__(self, dim, heads, bias, map_dropout, dropout):
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.proj_l, self.proj_w = nn.Linear(heads, heads), nn.Linear(heads, heads)
        self.map_dropout = nn.Dropout(map_dropout)
        self.proj, self.dropout = nn.Linear(dim, dim), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # the heads last
        scores = torch.einsum('benk, bemk -> bnme', q, k) * self.scale
        weights = self.map_dropout(self.proj_w(self.proj_l(scores).softmax(dim=2)))
        return self.dropout(self.proj(torch.einsum('bnme, bemk -> bnek', weights, v).flatten(2)))


class PatchBlock(nn.Module):
    def __init__(self, dim, heads, ratio, bias, map_dropout, dropout, start, eps):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps), nn.LayerNorm(dim, eps)
        self.attn = TalkingHeads(dim, heads, bias, map_dropout, dropout)
        self.mlp = Mlp(dim, ratio, dropout)
        self.gamma_1, self.gamma_2 = (nn.Parameter(torch.full((dim,), start)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.gamma_1 * self.attn(self.norm1(x))
        return x + self.gamma_2 * self.mlp(self.norm2(x))


class ClassBlock(nn.Module):
    def __init__(self, dim, heads, ratio, bias, start, eps):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps), nn.LayerNorm(dim, eps)
        self.attn = ClassAttn(dim, heads, bias, 0.0, 0.0)
        self.mlp = Mlp(dim, ratio, 0.0)
        self.gamma_1, self.gamma_2 = (nn.Parameter(torch.full((dim,), start)) for _ in range(2))

    def forward(self, cls: Tensor, patches: Tensor) -> Tensor:
        cls = cls + self.gamma_1 * self.attn(self.norm1(torch.cat([cls, patches], dim=1)))
        return cls + self.gamma_2 * self.mlp(self.norm2(cls))


class PatchEmbed(nn.Module):
    def __init__(self, channels, dim, patch):
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).mT


class Cait(nn.Module):
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
        init_values=1e-4,
        depth_token_only=2,
        mlp_ratio_token_only=4.0,
        drop_rate=0.0,
        pos_drop_rate=0.0,
        proj_drop_rate=0.0,
        attn_drop_rate=0.0,
        norm_eps=1e-6,
    ):
        super().__init__()
        size, patch = ((x, x) if isinstance(x, int) else tuple(x) for x in (img_size, patch_size))
        self.global_pool = global_pool
        self.patch_embed = PatchEmbed(in_chans, embed_dim, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        patches = (size[0] // patch[0]) * (size[1] // patch[1])
        self.pos_embed = nn.Parameter(torch.zeros(1, patches, embed_dim))
        self.pos_drop = nn.Dropout(pos_drop_rate)
        heads = embed_dim, num_heads
        self.blocks = nn.Sequential(
            *(
                PatchBlock(*heads, mlp_ratio, qkv_bias, attn_drop_rate, proj_drop_rate, init_values, norm_eps)
                for _ in range(depth)
            )
        )
        self.blocks_token_only = nn.ModuleList(
            [ClassBlock(*heads, mlp_ratio_token_only, qkv_bias, init_values, norm_eps) for _ in range(depth_token_only)]
        )
        self.norm = nn.LayerNorm(embed_dim, norm_eps)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        self.apply(initialise)
        for tokens in (self.pos_embed, self.cls_token):
            nn.init.trunc_normal_(tokens, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        x = self.blocks(self.pos_drop(self.patch_embed(images) + self.pos_embed))
        cls = self.cls_token.expand(len(x), -1, -1)
        for block in self.blocks_token_only:
            cls = block(cls, x)
        x = self.norm(torch.cat([cls, x], dim=1))
        if self.global_pool:
            x = x[:, 1:].mean(dim=1) if self.global_pool == 'avg' else x[:, 0]
        return self.head(self.head_drop(x))
